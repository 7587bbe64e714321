package recorder

import "net/http"

// Doubt and DoubtUser are what exchanges do, for tests outside the package.
func Doubt(s *Sessions, h http.Header) {
	c := s.credentialsOf(h, nil)
	s.doubt(&c)
}

// DoubtUser is doubtUser.
func DoubtUser(s *Sessions, id string) { s.doubtUser(id) }
