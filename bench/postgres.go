package main

import (
	"errors"

	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
)

// private is the DSN that asks for a PostgreSQL of the benchmark's own.
const private = "own"

// withPostgres measures with the PostgreSQL that was asked for. One of its own is that of the
// tests, with PostgreSQL's defaults for what the tests make smaller; where it cannot be started
// it is left out and named.
func (o *options) withPostgres(measure func() error) (err error) {
	if o.dsn != private {
		return measure()
	}
	s, err := pgtest.New("shared_buffers=128MB", "max_connections=100")
	if err != nil {
		o.dsn, o.missing = "", append(o.missing, "PostgreSQL: "+err.Error())
		return measure()
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	o.dsn = s.DSN()
	return measure()
}
