package storage

// Wrapper is a Store in front of another one, which it leaves some of the optional
// interfaces to.
type Wrapper interface {
	Store
	// Unwrap returns the store beneath. It is the same at every call.
	Unwrap() Store
}

// As finds an optional interface of a store, such as Lister: of the store itself or,
// when that is a Wrapper without it, of the store beneath. Use it in place of a type
// assertion, which sees the outermost store only.
func As[T any](s Store) (T, bool) {
	for {
		if found, ok := s.(T); ok {
			return found, true
		}
		w, ok := s.(Wrapper)
		if !ok {
			var none T
			return none, false
		}
		s = w.Unwrap()
	}
}
