package postgres

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
)

// authority is a certificate of a new authority, as PEM.
func authority(t *testing.T) []byte {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestCertificatesAreReadForEachConnection, those of all hosts.
func TestCertificatesAreReadForEachConnection(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(pem []byte) {
		t.Helper()
		if err := os.WriteFile(file, pem, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(authority(t))
	c, err := Options{DSN: "host=one,two user=caddy dbname=audit", TLS: "verify-full", RootCert: file}.parse()
	if err != nil {
		t.Fatal(err)
	}
	before := c.ConnConfig.TLSConfig.RootCAs
	fresh := func() bool {
		t.Helper()
		conn := c.ConnConfig.Copy()
		if err := c.BeforeConnect(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		if len(conn.Fallbacks) != 1 || conn.TLSConfig.ServerName != "one" || conn.Fallbacks[0].TLSConfig.ServerName != "two" {
			t.Fatalf("%+v", conn)
		}
		return !conn.TLSConfig.RootCAs.Equal(before) && !conn.Fallbacks[0].TLSConfig.RootCAs.Equal(before)
	}
	if fresh() {
		t.Error("nothing has changed yet")
	}
	write(authority(t))
	if !fresh() {
		t.Error("it has the old authority")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := c.BeforeConnect(t.Context(), c.ConnConfig.Copy()); err == nil {
		t.Error("a file that is gone is no error")
	}
}

// TestAMonthThatCannotBeCountedIsDroppedAllTheSame.
func TestAMonthThatCannotBeCountedIsDroppedAllTheSame(t *testing.T) {
	table := pgtest.Table(t)
	s, err := Open(t.Context(), Options{DSN: pgtest.DSN(t), Table: table})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	m := monthOf(time.Now().AddDate(0, -3, 0))
	if err := s.makePartitions(t.Context(), []month{m}, time.Second); err != nil {
		t.Fatal(err)
	}
	from, _ := m.keys()
	err = pgtest.Exec(t, fmt.Sprintf(`INSERT INTO "%[1]s_entries" (key, id, action, status, severity) SELECT %[2]d + n, n::text, 'x', 0, 0 FROM generate_series(1, 400000) AS n; ANALYZE "%[1]s_p%[3]s"`, table, from, m))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if n, err := s.count(t.Context(), s.fill(`SELECT count(*) FROM "{s}"."{t}_entries"`)); err != nil || n != 400000 {
		t.Fatal(n, err)
	}
	defer func(d time.Duration) { countTimeout = d }(countTimeout)
	countTimeout = time.Since(began) / 3
	for range 20 { // dropping may take longer too, now and then
		if n, err := s.dropMonths(t.Context(), time.Now()); n > 0 && err == nil {
			return
		}
	}
	t.Error("it is not dropped")
}
