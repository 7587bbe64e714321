package retention

import (
	"context"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// smallestStep and largestStep bound the entries that one transaction deletes.
	// Below the first a transaction costs more than its rows; the second holds the
	// writer for 2 ms at most.
	smallestStep, largestStep = 100, 200
	// wantedStep is how long a step should take, the wait for it included: longer
	// means that others need the store.
	wantedStep = 2 * time.Millisecond
	// restFactor: after each step the store rests for so many times as long as the
	// step took, within shortestRest and longestRest. So the disk, which those who
	// write need too, is free most of the time, and a slow disk as well.
	restFactor   = 10
	shortestRest = time.Millisecond
	longestRest  = time.Second
)

// Sweep deletes all that was created before the given time, in transactions so
// short and with such rests between them that writers hardly notice. deleted is
// called with the entries of each; nil is allowed. It returns how many there were,
// also with an error.
func Sweep(ctx context.Context, p storage.Pruner, before time.Time, deleted func(n int)) (int, error) {
	total := 0
	for step := smallestStep; ; {
		began := time.Now()
		n, err := p.Prune(ctx, before, step)
		took := time.Since(began)
		total += n
		if deleted != nil {
			deleted(n)
		}
		if err != nil || n == 0 {
			return total, err
		}
		step = nextStep(step, took)
		select {
		case <-time.After(min(max(restFactor*took, shortestRest), longestRest)):
		case <-ctx.Done():
			return total, ctx.Err()
		}
	}
}

// nextStep is smaller after a step that took too long, for whatever reason, and
// grows slowly otherwise.
func nextStep(step int, took time.Duration) int {
	switch {
	case took > wantedStep:
		step /= 2
	case took < wantedStep/2:
		step += step/8 + 1
	}
	return min(max(step, smallestStep), largestStep)
}
