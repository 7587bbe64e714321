package tap

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

// placeholder begins what stands for a secret.
const placeholder = "REDACTED-"

// Scrubber takes secrets out of exchanges. It remembers them: what was a secret once is
// one everywhere. It is safe for concurrent use.
type Scrubber struct {
	names *redact.Redactor
	// keep leaves everything but passwords.
	keep bool
	// forms are what texts may hold, and anyForm finds them.
	forms   []form
	anyForm *regexp.Regexp

	// mu protects the fields below, and makes one exchange wait for another.
	mu    sync.Mutex
	keyed *redact.Keyed
	// parts are secrets that are looked for inside of texts, whole those that only
	// count as a whole value; both with what stands for them.
	parts, whole map[string]string
	mails        map[string]string
	jwts         map[string]string
	// again is true while only what is known counts, learning while nothing that is.
	again, learning bool
	// depth is how many texts the one stands in that is read now.
	depth int
	// find replaces parts; nil when it must be made anew.
	find *strings.Replacer
}

// NewScrubber returns a Scrubber with a key of its own. keep leaves everything as it
// is but passwords.
func NewScrubber(keep bool) (*Scrubber, error) {
	names, err := redact.New(redact.Options{})
	if err != nil {
		return nil, err
	}
	key := make([]byte, redact.MinKeyBytes)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	s := &Scrubber{
		names: names, keep: keep, keyed: redact.NewKeyed(key), parts: make(map[string]string), whole: make(map[string]string),
		mails: make(map[string]string), jwts: make(map[string]string),
	}
	s.forms, s.anyForm = newForms()
	return s, nil
}

// Scrub takes the secrets out of an exchange.
func (s *Scrubber) Scrub(x *replay.Exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := *x
	s.learning = true // the first time is to find what is secret in it
	s.exchange(&first)
	s.learning = false
	s.exchange(x)
}

// Again takes out of a scrubbed exchange what has turned out to be a secret since, and
// says whether there was anything.
func (s *Scrubber) Again(x *replay.Exchange) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.again = true
	defer func() { s.again = false }()
	before := *x
	s.exchange(x)
	return !reflect.DeepEqual(&before, x)
}

// Secrets and Addresses are how many were found.
func (s *Scrubber) Secrets() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.parts) + len(s.whole) + len(s.jwts)
}

// Addresses is how many e-mail addresses were found.
func (s *Scrubber) Addresses() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mails)
}

// sum is the keyed hash of a value, for one purpose.
func (s *Scrubber) sum(purpose, value string) []byte {
	sum := s.keyed.Sum(purpose, value)
	return sum[:]
}

// stand is what stands for a secret word: about as long as it, and always the same.
func (s *Scrubber) stand(word string) string {
	n := min(max(len(word)-len(placeholder), 12), 32)
	return placeholder + hex.EncodeToString(s.sum("word", word))[:n]
}

// digits stands for a number: as many digits, and never itself.
func (s *Scrubber) digits(number string) string {
	for salt := byte('0'); ; salt++ {
		sum := s.sum("digits", number+string(salt))
		out := make([]byte, len(number))
		for i := range out {
			out[i] = '0' + sum[i%len(sum)]%10
		}
		if number[0] != '0' && out[0] == '0' {
			out[0] = '1'
		}
		if string(out) != number || len(number) < 2 {
			return string(out)
		}
	}
}

// uuid stands for a UUID, of the same version.
func (s *Scrubber) uuid(v string) string {
	id, err := uuid.Parse(v)
	if err != nil || id == uuid.Nil {
		return v
	}
	var out uuid.UUID
	copy(out[:], s.sum("uuid", id.String()))
	out[6], out[8] = id[6]&0xf0|out[6]&0x0f, id[8]&0xc0|out[8]&0x3f
	return out.String()
}

// mail stands for an e-mail address: user1@example.com, user2@example.com, ...
func (s *Scrubber) mail(address string) string {
	address = strings.ToLower(address)
	out, ok := s.mails[address]
	if !ok {
		out = fmt.Sprintf("user%d@example.com", len(s.mails)+1)
		s.mails[address] = out
	}
	return out
}

// noise stands for base64url of bytes that nobody reads, as long as it.
func (s *Scrubber) noise(b64 string) string {
	var raw []byte
	for i := 0; len(raw) < len(b64); i++ {
		raw = append(raw, s.sum(fmt.Sprintf("noise %d", i), b64)...)
	}
	return base64.RawURLEncoding.EncodeToString(raw)[:len(b64)]
}

// mask stands for a value that is secret as a whole, and remembers it.
func (s *Scrubber) mask(v string) string {
	out := s.veil(v)
	if out == v || s.again || !s.secretForm(v) {
		return out
	}
	s.learn(v, out)
	if words := wordRun.FindAllString(v, -1); len(words) <= maxWords && strings.Trim(v, "0123456789") != "" {
		for _, word := range words {
			s.learn(word, s.stand(word))
		}
	}
	return out
}

// secretForm is false for what is found by its own form wherever it stands.
func (s *Scrubber) secretForm(v string) bool {
	return !wholeJWT.MatchString(v) && !wholeMail.MatchString(v) && (uuid.Validate(v) != nil || len(v) != 36)
}

// veil stands for a value of which nothing is to be seen. The parts of a token each
// have their own placeholder: servers put the same one together in different ways,
// such as token.signature in a cookie and the token alone in a body.
func (s *Scrubber) veil(v string) string {
	switch {
	case s.again:
		return s.text(v)
	case v == "", strings.Contains(v, placeholder):
		return v
	case uuid.Validate(v) == nil && len(v) == 36:
		return s.uuid(v)
	case wholeJWT.MatchString(v):
		return s.jwt(v)
	case wholeMail.MatchString(v):
		return s.mail(v)
	case strings.Trim(v, "0123456789") == "":
		return s.digits(v)
	}
	if n := len(wordRun.FindAllString(v, -1)); n == 0 || n > maxWords || strings.ContainsFunc(v, func(r rune) bool { return r >= utf8.RuneSelf }) {
		return s.stand(v) // a word of other letters would stay
	}
	return wordRun.ReplaceAllStringFunc(v, s.stand)
}

// maxWords is how many parts of a secret keep their place.
const maxWords = 8

// password stands for a password: nothing of its form stays.
func (s *Scrubber) password(v string) string {
	if s.again || v == "" || strings.HasPrefix(v, placeholder) {
		return v
	}
	stands := s.stand(v)
	s.learnPassword(v, stands)
	return stands
}

// The shortest passwords that count as a whole value, and inside of texts.
const (
	shortestWhole = 3
	shortestPart  = 6
)

// learnPassword remembers a password, also one that is a word: servers repeat it in what
// they say of it. What many values are in any recording is not looked for.
func (s *Scrubber) learnPassword(password, stands string) {
	bare := strings.TrimSpace(password)
	switch {
	case common[strings.ToLower(bare)] || ordinary[strings.ToLower(bare)] || len(bare) < shortestWhole:
	case telling(password) || len(password) >= shortestPart:
		s.learnPart(password, stands)
	default:
		s.whole[bare] = stands
	}
}

// learn remembers a secret. Inside of texts it is looked for only if it cannot be an
// ordinary word.
func (s *Scrubber) learn(secret, stands string) {
	if telling(secret) {
		s.learnPart(secret, stands)
		return
	}
	if len(secret) >= 4 && strings.ContainsAny(secret, "0123456789") {
		s.whole[secret] = stands
	}
}

// learnPart remembers what is looked for inside of texts, in every spelling.
func (s *Scrubber) learnPart(secret, stands string) {
	if _, known := s.parts[secret]; known {
		return
	}
	for _, spelling := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), html.EscapeString(secret), escapeJSON(secret)} {
		s.parts[spelling] = stands
	}
	s.find = nil
}

// person remembers a name of somebody, which counts as a whole value only.
func (s *Scrubber) person(name string) string {
	if s.again {
		return s.text(name)
	}
	if ordinary[strings.ToLower(name)] || len(name) < 2 || strings.HasPrefix(name, placeholder) {
		return name
	}
	stands := s.stand(name)
	if wholeMail.MatchString(name) {
		stands = s.mail(name)
	}
	s.whole[name] = stands
	return stands
}

// ordinary names are those of no person.
var ordinary = map[string]bool{
	"admin": true, "administrator": true, "root": true, "user": true, "users": true, "test": true, "guest": true, "default": true,
	"email": true, "password": true, "username": true, "name": true, "login": true, "anonymous": true,
}

// common are words of programs, which some people take as a password.
var common = map[string]bool{
	"true": true, "false": true, "null": true, "none": true, "yes": true, "off": true, "undefined": true,
	"passwd": true, "passphrase": true, "secret": true, "token": true, "code": true, "session": true, "account": true, "cookie": true, "totp": true, "otp": true,
	"signin": true, "sign-in": true, "signup": true, "sign-up": true, "logout": true, "register": true, "verify": true, "profile": true, "client": true, "server": true,
	"string": true, "number": true, "object": true, "value": true, "required": true, "invalid": true, "missing": true, "unknown": true, "redacted": true,
	"success": true, "failed": true, "error": true, "message": true, "status": true, "method": true, "action": true, "submit": true, "application": true,
}

// telling says whether a secret may be looked for inside of texts: it is long, and has
// characters of two kinds.
func telling(s string) bool {
	var lower, upper, digit, other int
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z':
			lower = 1
		case c >= 'A' && c <= 'Z':
			upper = 1
		case c >= '0' && c <= '9':
			digit = 1
		default:
			other = 1
		}
	}
	return len(s) >= 8 && lower+upper+digit+other >= 2
}

// exact replaces a value that is a known secret or name as a whole.
func (s *Scrubber) exact(v string) string {
	if stands, ok := s.whole[strings.TrimSpace(v)]; ok {
		return stands
	}
	return v
}

// pieces cuts a text at the secrets in it that are known: every second piece stands
// for one.
func (s *Scrubber) pieces(text string) []string {
	if len(s.parts) == 0 || s.learning {
		return []string{text}
	}
	if s.find == nil {
		secrets := make([]string, 0, len(s.parts))
		for secret := range s.parts {
			secrets = append(secrets, secret)
		}
		slices.SortFunc(secrets, func(a, b string) int { // the longest wins
			if len(a) != len(b) {
				return len(b) - len(a)
			}
			return strings.Compare(a, b)
		})
		pairs := make([]string, 0, 2*len(secrets))
		for _, secret := range secrets {
			pairs = append(pairs, secret, "\x00"+s.parts[secret]+"\x00")
		}
		s.find = strings.NewReplacer(pairs...)
	}
	return strings.Split(s.find.Replace(strings.ReplaceAll(text, "\x00", "\ufffd")), "\x00")
}
