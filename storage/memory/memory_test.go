package memory

import (
	"errors"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func TestTheOldestEntriesAreDroppedAtTheCapacity(t *testing.T) {
	s := New(3)
	var ids []string
	for i := range 5 {
		e := storage.Entry{Action: "x", CreatedAt: time.Unix(int64(i), 0)}
		e.Sanitize()
		ids = append(ids, e.ID)
		if err := s.Write(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	got := s.Entries()
	if len(got) != 3 || got[0].ID != ids[2] || got[2].ID != ids[4] {
		t.Errorf("kept %d entries: %v", len(got), got)
	}
	if _, err := s.Get(t.Context(), ids[0]); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a dropped entry is still found: %v", err)
	}
}

func TestAClosedStoreRefusesWrites(t *testing.T) {
	s := New(0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), storage.Entry{ID: "x"}); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
