package profile

// words finds, in one pass over a path and without allocating, which routes have a
// word in it: the automaton of Aho and Corasick (Communications of the ACM 18, 1975)
// over lower-case letters, digits, "/" and "$", the end of the path.
type words struct {
	next   [][alphabet]int16
	hits   [][]int16 // by state: routes whose word ends here
	fail   []int16
	routes []*Route
}

const (
	alphabet = 38 // a-z, 0-9, /, $
	slash    = 36
	end      = 37
	// maxWordRoutes bounds the routes that are found by words: a set of them is two
	// machine words.
	maxWordRoutes = 128
	// maxWordBytes bounds their words together, so that a state fits into 16 bits.
	maxWordBytes = 16 << 10
)

// letter is a byte's place in the alphabet; -1 for what does not count ("-", "_",
// ".").
func letter(c byte) int {
	switch {
	case c >= 'a' && c <= 'z':
		return int(c - 'a')
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= '0' && c <= '9':
		return int(c-'0') + 26
	case c == '/':
		return slash
	case c == '$':
		return end
	}
	return -1
}

// newWords builds the automaton of the routes with words; nil if there are none.
func newWords(routes []*Route) *words {
	w := &words{next: make([][alphabet]int16, 1), hits: make([][]int16, 1)}
	for _, r := range routes {
		if len(r.Words) == 0 {
			continue
		}
		for _, word := range r.Words {
			w.add(word, int16(len(w.routes)))
		}
		w.routes = append(w.routes, r)
	}
	if len(w.routes) == 0 {
		return nil
	}
	w.link()
	return w
}

func (w *words) add(word string, route int16) {
	state := int16(0)
	for i := range len(word) {
		c := letter(word[i])
		if w.next[state][c] == 0 {
			w.next = append(w.next, [alphabet]int16{})
			w.hits = append(w.hits, nil)
			w.next[state][c] = int16(len(w.next) - 1)
		}
		state = w.next[state][c]
	}
	w.hits[state] = append(w.hits[state], route)
}

// link adds the transitions after a mismatch, breadth first.
func (w *words) link() {
	w.fail = make([]int16, len(w.next))
	var queue []int16
	for _, s := range w.next[0] {
		if s != 0 {
			queue = append(queue, s)
		}
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		w.hits[s] = append(w.hits[s], w.hits[w.fail[s]]...)
		for c, t := range w.next[s] {
			if t == 0 {
				w.next[s][c] = w.next[w.fail[s]][c]
				continue
			}
			w.fail[t] = w.next[w.fail[s]][c]
			queue = append(queue, t)
		}
	}
}

// routeSet says which of the routes have a word in a path.
type routeSet [2]uint64

func (s *routeSet) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

// find returns the routes that have a word in the path, which begins with "/" and is
// taken to end with one.
func (w *words) find(path string) (set routeSet, any bool) {
	state := int16(0)
	step := func(c int) {
		state = w.next[state][c]
		for _, r := range w.hits[state] {
			set[r/64] |= 1 << (r % 64)
			any = true
		}
	}
	for i := range len(path) {
		if c := letter(path[i]); c >= 0 && c != end {
			step(c)
		}
	}
	if len(path) == 0 || path[len(path)-1] != '/' {
		step(slash)
	}
	step(end)
	return set, any
}
