package storage

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
)

// Status is how an exchange ended.
type Status string

// The statuses. Unknown is what a durable intent says until its outcome is
// written; a process that is killed in between leaves it so, never a false
// success.
const (
	Success Status = "success"
	Failed  Status = "failed"
	Pending Status = "pending" // accepted, another step is needed
	Unknown Status = "unknown"
)

// Valid says whether s is one of the four statuses.
func (s Status) Valid() bool {
	switch s {
	case Success, Failed, Pending, Unknown:
		return true
	}
	return false
}

// statuses by their codes.
var statuses = [...]Status{Success, Failed, Pending, Unknown}

// StatusCodes is how many codes there are, from 0 on.
const StatusCodes = len(statuses)

// Code is the number that stores in SQL keep instead of the status; that of Unknown for
// whatever is none. Codes stay as they are: they stand in databases.
func (s Status) Code() int {
	for code, known := range statuses {
		if s == known {
			return code
		}
	}
	return StatusCodes - 1
}

// StatusOf is the status of a code, Unknown for whatever is none.
func StatusOf(code int) Status {
	if code < 0 || code >= StatusCodes {
		return Unknown
	}
	return statuses[code]
}

// TextHash is what stores in SQL index instead of a long text: the first 64 bits of its
// SHA-256, which may be the same for two texts.
func TextHash(s string) int64 {
	sum := sha256.Sum256([]byte(s))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// Caps of the fields, in bytes (threats.md B6). Longer values are cut on a rune
// boundary by Entry.Sanitize.
const (
	MaxID        = 64
	MaxUserID    = 255
	MaxAction    = 128
	MaxIPAddress = 64
	MaxUserAgent = 512
	// MaxMetadata is a hard cap; what is captured or inserted is limited to less.
	MaxMetadata = 1 << 20
)

// Entry is one line of the audit log: who, what, from where, how it ended and
// how severe it is. An empty UserID, IPAddress or UserAgent means that nobody
// knows it; JSON shows it as null.
type Entry struct {
	// ID is a UUIDv7 for entries that the recorder makes.
	ID string
	// UserID is the acting user as the auth server names it.
	UserID string
	// Action in the plugin's form, such as "sign-in:email".
	Action string
	// Status is the outcome of the exchange.
	Status Status
	// Severity of the entry.
	Severity severity.Level
	// IPAddress of the client, without a port, as CleanAddress writes it.
	IPAddress string
	// UserAgent as the client sent it, made valid UTF-8 and cut.
	UserAgent string
	// Metadata is a JSON object; nil stands for {}.
	Metadata json.RawMessage
	// CreatedAt is when the exchange began, UTC, kept to the millisecond.
	CreatedAt time.Time
	// IdentifierHash is the keyed hash of what was typed to sign in, so that
	// attempts on one account can be found (Query.IdentifierHash). It is empty, or
	// the same as metadata.identifierHash, where a store may read it from; it has
	// no place of its own in JSON. What users insert has none, whatever its
	// metadata says.
	IdentifierHash string
}

// NewID returns a fresh UUIDv7 (RFC 9562). It is safe for concurrent use.
func NewID() string {
	id, err := uuid.NewV7()
	if err != nil {
		// crypto/rand does not fail since Go 1.24: it crashes the process
		// instead. A random id of any version keeps the entry all the same.
		return uuid.NewString()
	}
	return id.String()
}

// NewIDAt returns a fresh UUIDv7 of a time, which it carries to a quarter of a microsecond
// (RFC 9562, section 6.2, method 3): an entry that was created then is found by its id
// alone, see IDKey, and in its place also among those of the same millisecond. It is safe
// for concurrent use.
func NewIDAt(now time.Time) string {
	var id uuid.UUID
	_, _ = rand.Read(id[6:]) // never fails: see crypto/rand
	now = clampTime(now)
	part := int(binary.BigEndian.Uint16(id[6:8]) & 0x0fff)
	if rest := now.Nanosecond() % int(time.Millisecond); rest > 0 { // else its entries would all have one key
		part = rest * 4096 / int(time.Millisecond)
	}
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16|7<<12|uint64(part)) //nolint:gosec // neither is negative
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

// TimeLayout is ISO 8601 as JavaScript's Date.toISOString prints it, which is
// what the plugin's clients parse.
const TimeLayout = "2006-01-02T15:04:05.000Z"

// jsonEntry is the wire form; the order of the fields is the plugin's.
type jsonEntry struct {
	ID        string          `json:"id"`
	UserID    *string         `json:"userId"`
	Action    string          `json:"action"`
	Status    Status          `json:"status"`
	Severity  severity.Level  `json:"severity"`
	IPAddress *string         `json:"ipAddress"`
	UserAgent *string         `json:"userAgent"`
	Metadata  json.RawMessage `json:"metadata"`
	CreatedAt string          `json:"createdAt"`
}

// MarshalJSON writes the plugin's field names; unknown values become null.
func (e Entry) MarshalJSON() ([]byte, error) {
	return json.Marshal(jsonEntry{
		ID: e.ID, UserID: orNull(e.UserID), Action: e.Action, Status: e.Status, Severity: e.Severity,
		IPAddress: orNull(e.IPAddress), UserAgent: orNull(e.UserAgent),
		Metadata: e.metadata(), CreatedAt: e.CreatedAt.UTC().Format(TimeLayout),
	})
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (e *Entry) UnmarshalJSON(b []byte) error {
	var j jsonEntry
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	at, err := time.Parse(time.RFC3339, j.CreatedAt)
	if err != nil {
		return fmt.Errorf("createdAt: %w", err)
	}
	*e = Entry{
		ID: j.ID, UserID: orEmpty(j.UserID), Action: j.Action, Status: j.Status, Severity: j.Severity,
		IPAddress: orEmpty(j.IPAddress), UserAgent: orEmpty(j.UserAgent), Metadata: j.Metadata, CreatedAt: at.UTC(),
	}
	return nil
}

func (e *Entry) metadata() json.RawMessage {
	if len(e.Metadata) == 0 {
		return json.RawMessage("{}")
	}
	return e.Metadata
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// The actions of the entries by which a log says that it begins to record, or does so otherwise,
// that it ends, and that entries were deleted or imported. Nobody else can write them.
const (
	ActionStarted  = "audit-log:started"
	ActionStopped  = "audit-log:stopped"
	ActionPruned   = "audit-log:pruned"
	ActionImported = "audit-log:imported"
)

// Node is the machine's name, by which such entries tell who has written them: several may write to
// one log. "" if the system does not know it.
func Node() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// IsOwnAction says whether an action is one of the log's own, which begin with "audit-log:", in
// any spelling that a reader could take for it: case, surrounding space, slashes for colons.
func IsOwnAction(action string) bool {
	action = strings.TrimLeft(strings.ReplaceAll(strings.TrimSpace(action), "/", ":"), ":")
	return strings.HasPrefix(strings.ToLower(action), "audit-log:")
}

// OwnLife says whether the entry is one of those.
func (e *Entry) OwnLife() bool {
	switch e.Action {
	case ActionStarted, ActionStopped, ActionPruned, ActionImported:
		return true
	}
	return false
}

// Sanitize makes every value storable in any store: valid UTF-8, no NUL, within
// its cap, a known status, an address in its one spelling, a JSON object as
// metadata, time to the millisecond. A value may degrade, an entry is never lost to one (threats.md A24, B6, B7).
// Recorder and API call it, or SanitizeOwn; stores may rely on it.
func (e *Entry) Sanitize() { e.sanitize(cleanMetadata) }

// SanitizeOwn is Sanitize for Metadata that this program has written by itself, as
// encoding/json writes an object: that it is one is not found out once more.
func (e *Entry) SanitizeOwn() { e.sanitize(cleanOwn) }

func (e *Entry) sanitize(clean func(json.RawMessage) json.RawMessage) {
	if e.CreatedAt.IsZero() {
		e.CreatedAt = time.Now()
	}
	if e.ID = Clean(e.ID, MaxID); e.ID == "" {
		e.ID = NewIDAt(e.CreatedAt)
	}
	e.UserID = CleanUserID(e.UserID)
	e.Action = Clean(e.Action, MaxAction)
	e.IPAddress = CleanAddress(e.IPAddress)
	e.UserAgent = Clean(e.UserAgent, MaxUserAgent)
	if !e.Status.Valid() {
		e.Status = Unknown
	}
	e.CreatedAt = clampTime(e.CreatedAt.UTC().Truncate(time.Millisecond))
	e.Metadata = clean(e.Metadata)
	if e.IdentifierHash != "" && e.IdentifierHash != TextIn(e.Metadata, identifierHashPath) {
		e.IdentifierHash = ""
	}
}

// The range of times that a sort key can hold and a client will show.
var (
	minTime = time.Unix(0, 0).UTC()
	maxTime = time.Date(2248, 1, 1, 0, 0, 0, 0, time.UTC)
)

func clampTime(t time.Time) time.Time {
	if t.Before(minTime) {
		return minTime
	}
	if t.After(maxTime) {
		return maxTime
	}
	return t
}

func cleanMetadata(m json.RawMessage) json.RawMessage {
	if len(m) > 0 && (m[0] != '{' || !json.Valid(m)) {
		return DroppedMetadata(m)
	}
	return cleanOwn(m)
}

// DroppedMetadata is what stands in the place of metadata that cannot be kept: how long it was.
func DroppedMetadata(m json.RawMessage) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"metadataDropped":{"bytes":%d}}`, len(m)))
}

func cleanOwn(m json.RawMessage) json.RawMessage {
	switch {
	case len(m) == 0:
		return json.RawMessage("{}")
	case len(m) > MaxMetadata:
		return DroppedMetadata(m)
	case utf8.Valid(m) && !bytes.Contains(m, []byte(`\u0000`)):
		return m
	}
	clean := strings.ToValidUTF8(string(m), "\uFFFD")
	return json.RawMessage(replaceEscapedNUL(clean))
}

// replaceEscapedNUL turns the JSON escape \u0000 into \ufffd, but leaves an
// escaped backslash followed by "u0000" alone.
func replaceEscapedNUL(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 >= len(s) {
			b.WriteByte(s[i])
			continue
		}
		if strings.HasPrefix(s[i:], `\u0000`) {
			b.WriteString(`\ufffd`)
			i += len(`\u0000`) - 1
			continue
		}
		b.WriteString(s[i : i+2])
		i++
	}
	return b.String()
}

// Clean returns s as valid UTF-8 without NUL, at most limit bytes long. A cut is
// made on a rune boundary and marked with an ellipsis.
func Clean(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	if len(s) > 4*limit {
		s = s[:4*limit] // bound the work on hostile input; the cut below decides
	}
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= limit {
		return s
	}
	const ellipsis = "…"
	cut := limit - len(ellipsis)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + ellipsis
}

// CleanUserID is Clean for the id of a user. What is cut ends in 32 hexadecimal digits of its
// SHA-256, too, so that people whose long ids begin alike stay apart (threats.md B6, which has 8:
// but it says who may read what).
func CleanUserID(id string) string {
	if len(id) <= MaxUserID {
		return Clean(id, MaxUserID)
	}
	sum := sha256.Sum256([]byte(id))
	mark := fmt.Sprintf("#%x", sum[:16])
	return Clean(id, MaxUserID-len(mark)) + mark
}

// CleanAddress is Clean for an address. IPv6 has many spellings: it is written in its shortest
// (RFC 5952), as IPv4 where it only wraps one, and without a zone, so that one address is one
// text to look for. What is no address stays as it is: a rule may have made it.
func CleanAddress(text string) string {
	text = Clean(text, MaxIPAddress)
	if !strings.Contains(text, ":") {
		return text // one of IPv4 has one spelling
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return text
	}
	return addr.Unmap().WithZone("").String()
}

// keyBits is how many low bits of a sort key come from the id.
const keyBits = 20

// SortKey is the entry's place in the log: milliseconds since 1970 in the upper
// 43 bits, then 20 bits of the id. For a UUIDv7 these are its sub-millisecond
// part and its first random bits, so that entries of one millisecond keep the
// order in which they were made. Lists are in descending order of it, the same in
// every store; equal keys are told apart by counting up.
func (e *Entry) SortKey() int64 {
	return TimeKey(e.CreatedAt) | int64(idBits(e.ID))
}

// IDKey is the SortKey of an entry that was created when its id says; ok is false if the
// id is not a UUIDv7 as RFC 9562 writes it, which says when it was made.
func IDKey(id string) (key int64, ok bool) {
	if len(id) != len("00000000-0000-7000-8000-000000000000") || strings.ContainsAny(id, "ABCDEF") {
		return 0, false
	}
	u, err := uuid.Parse(id)
	if err != nil || u.Version() != 7 {
		return 0, false
	}
	at := int64(binary.BigEndian.Uint64(u[:8]) >> 16) //nolint:gosec // 48 bits
	return TimeKey(time.UnixMilli(at)) | int64(idBits(id)), true
}

// EndKey is the first sort key behind the millisecond of t: both ends of a Query's time are
// inclusive.
func EndKey(t time.Time) int64 { return TimeKey(t.Add(time.Millisecond)) }

// TimeKey is the lowest SortKey of the millisecond of t.
func TimeKey(t time.Time) int64 {
	return clampTime(t).UnixMilli() << keyBits
}

// KeyTime is the inverse of TimeKey: the millisecond of a sort key.
func KeyTime(key int64) time.Time {
	return time.UnixMilli(key >> keyBits).UTC()
}

func idBits(id string) uint32 {
	const mask = 1<<keyBits - 1
	if u, err := uuid.Parse(id); err == nil {
		// 12 bits of rand_a (sub-millisecond time), then 8 random bits.
		return uint32(binary.BigEndian.Uint16(u[6:8])&0x0fff)<<8 | uint32(u[9])
	}
	var h uint32 = 2166136261 // FNV-1a
	for i := range len(id) {
		h = (h ^ uint32(id[i])) * 16777619
	}
	return h & mask
}
