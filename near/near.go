// Package near finds what a misspelt name may be meant for. Pure.
package near

import "strings"

// Name is the one of names that is nearest to what was written, whatever the case; "" if each is
// as far as limit, or farther. How far is how many bytes must be put in, taken out or replaced.
func Name(written string, names []string, limit int) (found string) {
	written = strings.ToLower(written)
	for _, name := range names {
		if d := distance(written, strings.ToLower(name)); d < limit {
			found, limit = name, d
		}
	}
	return found
}

// distance is how many bytes must be put in, taken out or replaced to make one text of the
// other (Levenshtein, 1965).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
