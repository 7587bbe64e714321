package recorder

import "net/http"

// Doubt and DoubtUser are what exchanges do, for tests outside the package.
func Doubt(s *Sessions, h http.Header) {
	c := s.credentialsOf(h, nil)
	s.doubt(&c)
}

// DoubtUser is doubtUser.
func DoubtUser(s *Sessions, id string) { s.doubtUser(id) }

// Reserve is how many outcomes have a place in a full queue.
const Reserve = reserve

// Taken are the places of the queue that are taken.
func (w *Writer) Taken() int64 { return w.taken.Load() + w.owed.Load() }
