package exchange

import (
	"sync"
	"testing"
)

// TestABufferBelongsToOne: what was given back is somebody else's at once, and empty. The race
// detector tells.
func TestABufferBelongsToOne(t *testing.T) {
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for n := range 500 {
				b, outgrown := appendTo(getBuffer(n%(MaxBody+1)), make([]byte, n*7%MaxBody))
				putBuffer(outgrown)
				for _, c := range (*b)[:cap(*b)] {
					if c != 0 {
						t.Error("something was left in a buffer")
						return
					}
				}
				for i := range *b {
					(*b)[i] = 'x'
				}
				putBuffer(b)
			}
		})
	}
	all.Wait()
}
