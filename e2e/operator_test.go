package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

// notLocal is loopback by a spelling that only the resolver knows to be so: the handler
// has to take it for an address that others reach, and the test still listens on this
// machine alone.
const notLocal = "LocalHost"

// operatorSite is a site with audit_log_api and no audit_log.
func operatorSite(bind string, port int, before, block, upstream string) string {
	return fmt.Sprintf("http://:%d {\n\tbind %s\n\t%s\n\taudit_log_api {\n\t\t%s\n\t}\n\treverse_proxy %s\n}\n", port, bind, before, block, upstream)
}

// gatekeeper is what forward_auth asks: it names who has the cookie "operator", lets
// "nameless" pass without a name, and refuses all others.
func gatekeeper(w http.ResponseWriter, r *http.Request) {
	switch r.Header.Get("Cookie") {
	case "operator=1":
		w.Header().Set("Remote-User", "olga")
	case "nameless=1":
	default:
		w.WriteHeader(http.StatusUnauthorized)
	}
}

// TestWhoIsLetInToTheOperatorsSurface: nobody but whom Caddy let in.
func TestWhoIsLetInToTheOperatorsSurface(t *testing.T) {
	harness.Use(t)
	dir := t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	keeper := harness.Upstream(t, http.HandlerFunc(gatekeeper))
	behind := harness.Upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	ports := map[string]int{}
	var sites []string
	for name, s := range map[string]struct{ bind, before, block string }{
		"local":   {"127.0.0.1", "", ""},
		"open":    {notLocal, "", "allow_header Remote-User"},
		"basic":   {notLocal, "basic_auth {\n\t\tolga " + string(hash) + "\n\t}", ""},
		"forward": {notLocal, "forward_auth " + keeper + " {\n\t\turi /\n\t\tcopy_headers Remote-User\n\t}", "allow_header Remote-Email Remote-User"},
		"unnamed": {notLocal, "forward_auth " + keeper + " {\n\t\turi /\n\t\tcopy_headers Remote-User\n\t}", ""},
	} {
		ports[name] = harness.FreePort(t)
		sites = append(sites, operatorSite(s.bind, ports[name], s.before, s.block, behind))
	}
	ports["beside"] = harness.FreePort(t)
	sites = append(sites, operatorSite("127.0.0.1", ports["beside"], "audit_log", "", behind))
	harness.Load(t, anyHost(database(dir), "", sites...))
	const basic = "Authorization: Basic b2xnYTpzZWNyZXQ=\r\n" // olga:secret
	for _, c := range []struct {
		site, header string
		want         int
	}{
		{"local", "Host: localhost\r\n", 200}, {"local", "Host: 127.0.0.1:9999\r\n", 200}, {"local", "Host: [::1]:80\r\n", 200}, {"local", "Host: LOCALHOST:1\r\n", 200},
		{"beside", "Host: localhost\r\n", 200}, {"beside", "Host: evil.example\r\n", 403},
		{"local", "Host: evil.example\r\n", 403}, {"local", "Host: localhost.evil.example\r\n", 403}, {"local", "Host: 127.0.0.1.nip.io\r\n", 403}, {"local", "Host: 192.0.2.1\r\n", 403},
		{"local", "Host: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n", 403}, {"local", "Host: localhost\r\nVia: 1.1 proxy\r\n", 403},
		{"local", "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n", 403}, {"local", "Host: localhost\r\nSec-Fetch-Site: same-origin\r\n", 200},
		{"open", "Host: localhost\r\n", 403}, {"open", "Host: 127.0.0.1\r\nRemote-User: olga\r\n", 403}, {"open", "Host: localhost\r\n" + basic, 403},
		{"basic", "", 401}, {"basic", "Authorization: Basic b2xnYTp3cm9uZw==\r\n", 401}, {"basic", basic, 200}, {"basic", basic + "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n", 403},
		{"forward", "", 401}, {"forward", "Remote-User: olga\r\n", 401}, {"forward", "Cookie: operator=1\r\n", 200}, {"forward", "Cookie: nameless=1\r\n", 403},
		{"forward", "Cookie: nameless=1\r\nRemote-User: olga\r\n", 403}, {"unnamed", "Cookie: operator=1\r\n", 403}, {"unnamed", "Cookie: operator=1\r\nRemote-User: olga\r\n", 403},
	} {
		status, body := once(ports[c.site], raw("GET", "/audit-log/list", "operator", c.header, ""))
		told := strings.Contains(string(body), `"total"`)
		if status != c.want || told != (c.want == 200) || c.want == 403 && !strings.Contains(string(body), `"code"`) {
			t.Errorf("%s with %q: %d %s, want %d", c.site, c.header, status, body, c.want)
		}
	}
	for path, want := range map[string]int{"/audit-logs": 418, "/": 418, "/AUDIT-LOG/list": 418, "//audit-log/list": 418, "/audit-log/..%2flist": 404, "/audit-log/insert/x": 404} {
		if status, body := once(ports["local"], raw("GET", path, "operator", "Host: localhost\r\n", "")); status != want {
			t.Errorf("%s: %d %s, want %d", path, status, body, want)
		}
	}
	if status, body := once(ports["local"], raw("POST", "/audit-log/insert", "operator", "Host: localhost\r\n"+jsonType, `{"action":"custom:x"}`)); status != 405 {
		t.Errorf("an insert: %d %s", status, body)
	}
}

// issue makes a certificate for name, signed by the issuer, and writes it with its key;
// without an issuer it signs itself, and may sign others.
func issue(t *testing.T, dir, name string, issuer *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, BasicConstraintsValid: true, IsCA: issuer == nil,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, signer := template, any(key)
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	for ext, b := range map[string][]byte{".crt": certPEM, ".key": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name+ext), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestAVerifiedClientCertificateOpensTheOperatorsSurface, one that anybody made does not.
func TestAVerifiedClientCertificateOpensTheOperatorsSurface(t *testing.T) {
	harness.Use(t)
	dir := t.TempDir()
	authority := issue(t, dir, "authority", nil)
	issue(t, dir, "server", &authority)
	operator, stranger := issue(t, dir, "operator", &authority), issue(t, dir, "stranger", nil)
	site := func(port int, mode, trust string) string {
		return fmt.Sprintf("https://:%d {\n\tbind %s\n\ttls %[3]s/server.crt %[3]s/server.key {\n\t\tclient_auth {\n\t\t\tmode %[4]s\n\t\t\t%[5]s\n\t\t}\n\t}\n\taudit_log_api\n}\n", port, notLocal, dir, mode, trust)
	}
	verified, taken := harness.FreePort(t), harness.FreePort(t)
	harness.Load(t, anyHost(database(dir), "auto_https off", site(verified, "verify_if_given", "trust_pool file "+dir+"/authority.crt"), site(taken, "request", "")))
	roots := x509.NewCertPool()
	roots.AddCert(authority.Leaf)
	for _, c := range []struct {
		name  string
		port  int
		certs []tls.Certificate
		want  int
	}{
		{"verified", verified, []tls.Certificate{operator}, 200}, {"none", verified, nil, 403}, {"somebody's own", verified, []tls.Certificate{stranger}, 0},
		{"a good one that was not verified", taken, []tls.Certificate{operator}, 403}, {"somebody's own that was not verified", taken, []tls.Certificate{stranger}, 403},
	} {
		config := &tls.Config{RootCAs: roots, Certificates: c.certs, MinVersion: tls.VersionTLS12}
		if len(c.certs) > 0 { // whether or not the server would take it
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.certs[0], nil }
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: hang}
		status, body := 0, []byte(nil)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://localhost:%d/audit-log/list", c.port), nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := client.Do(r); err == nil {
			status = res.StatusCode
			body, _ = io.ReadAll(res.Body)
			_ = res.Body.Close()
		}
		if status != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, status, body, c.want)
		}
	}
}
