package pgtest_test

import (
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
)

func TestAServerIsKilledFrozenAndStartedAgain(t *testing.T) {
	s := pgtest.Start(t)
	if err := s.Exec("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Exec("SELECT 1"); err == nil {
		t.Error("a killed server answers")
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { answered <- s.Exec("SELECT 1 / count(*) FROM kept") }()
	select {
	case err := <-answered:
		t.Errorf("a frozen server answers: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := s.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}
