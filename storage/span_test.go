package storage_test

import (
	"slices"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestSpansAreFew: near ones become one, and too many do.
func TestSpansAreFew(t *testing.T) {
	at := func(from, to int) storage.Span {
		return storage.Span{From: time.Unix(int64(from), 0), To: time.Unix(int64(to), 0)}
	}
	for _, c := range []struct{ add, want []storage.Span }{
		{nil, nil},
		{[]storage.Span{at(100, 100)}, []storage.Span{at(100, 100)}},
		{[]storage.Span{at(100, 100), at(110, 110)}, []storage.Span{at(100, 110)}},
		{[]storage.Span{at(100, 100), at(111, 111)}, []storage.Span{at(100, 100), at(111, 111)}},
		{[]storage.Span{at(100, 100), at(111, 111), at(105, 106)}, []storage.Span{at(100, 111)}},
		{[]storage.Span{at(0, 1000), at(500, 600)}, []storage.Span{at(0, 1000)}},
		{[]storage.Span{at(500, 600), at(0, 1000)}, []storage.Span{at(0, 1000)}},
		{[]storage.Span{at(0, 0), at(100, 100), at(200, 200), at(300, 300), at(400, 400), at(500, 500), at(600, 600), at(700, 700), at(800, 900)}, []storage.Span{at(0, 900)}},
	} {
		var got storage.Spans
		for _, s := range c.add {
			got = got.Add(s)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v become %v, want %v", c.add, got, c.want)
		}
	}
}
