package profile

import "strings"

// MatchPattern says whether a route's template fits a pattern of the user's: the
// template itself, or its beginning followed by * ("/two-factor/*").
func MatchPattern(pattern, template string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(template, prefix)
	}
	return pattern == template
}
