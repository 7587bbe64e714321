package caddymodule

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// The limits of what is well. What none of the references gives is chosen so that a
// busy, healthy deployment is far from it.
const (
	// lowDisk and lowShare warn, noDisk fails.
	lowDisk  = 100 << 20
	lowShare = 0.05
	noDisk   = 10 << 20
	// clockSkew warns, wrongClock fails: sessions and tokens of auth servers live for
	// minutes.
	clockSkew  = 5 * time.Second
	wrongClock = 5 * time.Minute
	// longQueue warns: a tenth of its capacity. What waits for longer than stuck was not
	// taken by the store.
	longQueue = 1000
	stuck     = 10 * time.Second
	// slowWrite warns: a request waits for that long.
	slowWrite = time.Second
)

// verdict says how well something is.
type verdict string

// The verdicts.
const (
	fine    verdict = "ok"
	warning verdict = "warn"
	failure verdict = "fail"
)

// finding is one line of the doctor.
type finding struct {
	Verdict verdict `json:"status"`
	// Check is what was looked at, such as disk; Of whose, such as a path.
	Check string `json:"check"`
	Of    string `json:"of,omitempty"`
	// Text says how it is, Remedy what to do if it is not well.
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// diagnosis collects findings.
type diagnosis []finding

func (d *diagnosis) add(v verdict, check, of, text, remedy string) {
	if v == fine {
		remedy = ""
	}
	*d = append(*d, finding{v, check, of, text, remedy})
}

// diagnose judges the facts. now is the time of who asks, answered the time in the head of
// Caddy's answer.
func diagnose(f facts, now, answered time.Time) diagnosis {
	var d diagnosis
	if len(f.Handlers) == 0 {
		d.add(failure, "handler", "", "the running configuration has no audit_log handler: nothing is recorded", "put audit_log in front of reverse_proxy in the site of the auth server, and reload")
	}
	for i := range f.Handlers {
		d.profile(&f.Handlers[i])
		d.session(&f.Handlers[i])
	}
	if !answered.IsZero() {
		d.clock("this machine and Caddy's", now.Sub(answered))
	}
	for i := range f.Stores {
		d.store(&f.Stores[i], f.Now)
	}
	return d
}

func (d *diagnosis) profile(h *handlerFacts) {
	name := fmt.Sprintf("%s under %s", h.Title, h.BasePath)
	switch {
	case h.Configured != auto:
		d.add(fine, "profile", h.where(), name+", as configured", "")
	case h.Known == "nothing":
		d.add(warning, "profile", h.where(), "the auth server is not recognised yet: paths are read as words, and the API answers 503", "sign in once through Caddy, or name it: profile <name> in the block of audit_log")
	case h.Known == "certain":
		d.add(fine, "profile", h.where(), fmt.Sprintf("%s, recognised by %s", name, h.By), "")
	default:
		d.add(warning, "profile", h.where(), fmt.Sprintf("%s, by a sign that other servers may have too (%s)", name, h.By), "if that is right, name it: profile "+h.Profile+" in the block of audit_log")
	}
}

// where names a handler for people.
func (h *handlerFacts) where() string {
	if len(h.Hosts) > 0 {
		return strings.Join(h.Hosts, " ")
	}
	return h.At
}

func (d *diagnosis) session(h *handlerFacts) {
	p := h.Probe
	if p == nil {
		return // what is not recognised is not asked
	}
	switch {
	case p.Missing:
		d.add(fine, "session", h.where(), "the profile has no session endpoint that can be asked without an exchange", "")
	case p.Error != "":
		d.add(failure, "session", h.where(), "the session endpoint does not answer as the profile says: "+p.Error, "see that the auth server runs, and that profile and base_path are its own; or set session_endpoint")
	case p.User != "":
		d.add(failure, "session", h.where(), "the session endpoint says that somebody is signed in without any credential: entries would name the wrong user", "see whether something between Caddy and the auth server adds credentials, or another profile fits")
	default:
		d.add(fine, "session", h.where(), "the session endpoint answers, and knows nobody without credentials", "")
	}
	if p.Date != nil {
		d.clock("the auth server of "+h.where(), p.Asked.Sub(*p.Date))
	}
}

// clock judges how far two clocks are apart. Dates in heads have no fractions of seconds.
func (d *diagnosis) clock(of string, apart time.Duration) {
	apart = max(0, apart.Abs()-time.Second)
	v := fine
	switch {
	case apart > wrongClock:
		v = failure
	case apart > clockSkew:
		v = warning
	}
	text := "the clocks agree"
	if v != fine {
		text = fmt.Sprintf("the clocks are %s apart: the order of entries and of the server's own log cannot be compared", apart.Round(time.Second))
	}
	d.add(v, "clock", of, text, "let an NTP client set the clocks")
}

func (d *diagnosis) store(s *storeFacts, now time.Time) {
	of := s.Path
	if of == "" {
		of = s.Store
	}
	if !s.Open {
		d.add(failure, "store", of, "the store is not open", "look into Caddy's log for the reason")
		return
	}
	d.writer(s, of, now)
	d.newest(s, of, now)
	if s.Disk != nil && !filepath.IsAbs(of) { // the database is elsewhere, its journal here
		d.disk(s, s.Disk.Folder)
	} else {
		d.disk(s, of)
	}
	for _, f := range s.Files {
		d.mode(f)
	}
}

func (d *diagnosis) writer(s *storeFacts, of string, now time.Time) {
	last := "nothing was written since the start"
	if s.LastWrite != nil {
		last = fmt.Sprintf("the last write was at %s and took %s", s.LastWrite.UTC().Format(time.RFC3339), seconds(s.LastWriteTook))
	}
	text := fmt.Sprintf("%d entries wait, %s", s.Queued, last)
	switch {
	case s.Queued > 0 && s.LastWrite != nil && now.Sub(*s.LastWrite) > stuck, s.Queued > 0 && s.LastWrite == nil && s.WriteErrors > 0:
		d.add(failure, "writer", of, text+": the store takes nothing", "look into Caddy's log for the error of the store")
	case s.Dropped > 0:
		d.add(warning, "writer", of, fmt.Sprintf("%s; %d events were lost since the start", text, s.Dropped), "entries audit-log:dropped say when; find out why the store was too slow, and watch dropped_total")
	case s.Queued >= longQueue, s.LastWriteTook > slowWrite.Seconds():
		d.add(warning, "writer", of, text+": the store is slow", "look for what else uses the disk; durability commit needs less of it")
	default:
		d.add(fine, "writer", of, text, "")
	}
	if s.Retention != nil && s.Retention.Error != "" {
		d.add(warning, "retention", of, s.Retention.Error, "see the section on retention in docs/operations.md")
	}
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond)
}

// newest judges the clock by the log itself: an entry of the future was written when the
// clock was ahead.
func (d *diagnosis) newest(s *storeFacts, of string, now time.Time) {
	switch {
	case s.Error != "":
		d.add(failure, "entries", of, "the store cannot be read: "+s.Error, "look into Caddy's log; for SQLite, PRAGMA integrity_check on a copy")
	case s.Newest == nil:
		d.add(fine, "entries", of, "there are none yet, or the store cannot list them", "")
	case s.Newest.Sub(now) > clockSkew:
		d.add(warning, "entries", of, fmt.Sprintf("the newest is %s in the future: a clock was, or is, wrong", s.Newest.Sub(now).Round(time.Second)), "set the clock; if it is right, the entry was written when it was not, and stays in front of every list. The retention deletes nothing for a day after it has seen one that is more than a day ahead")
	default:
		d.add(fine, "entries", of, "the newest is of "+s.Newest.UTC().Format(time.RFC3339), "")
	}
}

// onNetwork is what to do about a database that is there.
const onNetwork = "put the database on a disk of this machine, or use store postgres: locks, shared memory and fsync of SQLite do not hold on a network's file system"

func (d *diagnosis) disk(s *storeFacts, of string) {
	if s.Disk == nil || s.Disk.Total == 0 {
		return
	}
	share := float64(s.Disk.Free) / float64(s.Disk.Total)
	text := fmt.Sprintf("%s of %s are free (%.1f %%)", humanize.IBytes(s.Disk.Free), humanize.IBytes(s.Disk.Total), 100*share)
	v := fine
	switch {
	case s.Disk.Free < noDisk:
		v = failure
	case s.Disk.Free < lowDisk, share < lowShare:
		v = warning
	}
	if network := s.Disk.Network; network != "" && s.Store == "sqlite" {
		d.add(warning, "disk", of, "it is on "+network, onNetwork)
	}
	d.add(v, "disk", of, text, "make room, move the database, or set retention: without room for entries, requests that fail closed are refused")
}

func (d *diagnosis) mode(f fileMode) {
	text := fmt.Sprintf("mode %04o", f.Mode)
	if f.Mode&0o077 == 0 {
		d.add(fine, f.What, f.Path, text, "")
		return
	}
	v, plain := failure, "0600"
	if f.What == "folder" {
		v, plain = warning, "0700" // the files in it have modes of their own
	}
	d.add(v, f.What, f.Path, text+": others than its owner may use it", fmt.Sprintf("chmod %s %s", plain, f.Path))
}
