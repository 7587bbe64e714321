package tap

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

// TestRecordingsMeanTheSameWithoutTheirSecrets scrubs recordings of real servers, and
// replays them: none of their secrets is left, and the log says of them what it said
// before.
func TestRecordingsMeanTheSameWithoutTheirSecrets(t *testing.T) {
	for path, name := range map[string]string{
		"better-auth": "better_auth", "gotrue.jsonl": "supabase", "kratos-v26.jsonl": "kratos", "pocketbase.jsonl": "pocketbase", "casdoor.jsonl": "casdoor",
		"authelia.jsonl": "authelia", "dex.jsonl": "dex", "hydra.jsonl": "hydra", "oauth2-proxy.jsonl": "oauth2_proxy",
	} {
		t.Run(path, func(t *testing.T) {
			p, err := profile.Builtin(name)
			if err != nil {
				t.Fatal(err)
			}
			files, err := replay.Read("../testdata/traffic/" + path)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if f.Name == "audit-log-api" || f.Name == "errors" {
					continue // long, and of no other kind than the others
				}
				before := score(t, f, p)
				left := scrubAll(t, f)
				after := score(t, f, p)
				if after.Both < before.Both || after.Noise > before.Noise || after.Missing > before.Missing {
					t.Errorf("%s: %d of %d right, %d missing, %d noise; before %d, %d, %d", f.Name, after.Both, after.Wanted, after.Missing, after.Noise, before.Both, before.Missing, before.Noise)
					for i := range after.Misses {
						t.Log(&after.Misses[i])
					}
				}
				t.Logf("%s: %d of %d right, before %d; %d secrets are gone", f.Name, after.Both, after.Wanted, before.Both, left)
			}
		})
	}
}

func score(t *testing.T, f *replay.File, p *profile.Profile) *replay.Score {
	t.Helper()
	entries, err := replay.Run(f, replay.Options{Profile: p})
	if err != nil {
		t.Fatal(err)
	}
	return replay.ScoreFile(f, p, entries)
}

// scrubAll scrubs the exchanges of a recording in place, and returns how many of its
// secrets were looked for.
func scrubAll(t *testing.T, f *replay.File) int {
	t.Helper()
	secrets := make(map[string]string)
	for _, x := range f.Exchanges {
		for v, where := range x.Secrets() {
			if v = strings.Trim(v, `"`); !word(v) && strings.Trim(v, "0") != "" {
				secrets[v] = where
			}
		}
	}
	s := scrubber(t, false)
	for _, x := range f.Exchanges {
		s.Scrub(x)
	}
	var all strings.Builder
	for _, x := range f.Exchanges {
		s.Again(x)
		for _, id := range []*string{&x.Truth.User, &x.Truth.Target, &x.Truth.RequestSessionUserID, &x.Truth.ResponseSessionUserID, &x.Truth.RequestSessionImpersonatedBy} {
			*id = s.id(*id)
		}
		x.Request.BodyB64, x.Response.BodyB64 = fit(x.Request.Headers, x.Request.Body), fit(x.Response.Headers, x.Response.Body)
		b, err := json.Marshal(line{Request: message{Path: x.Request.Path, Headers: x.Request.Headers, Body: x.Request.Body}, Response: message{Headers: x.Response.Headers, Body: x.Response.Body}})
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	for v, where := range secrets {
		if strings.Contains(all.String(), v) {
			at := strings.Index(all.String(), v)
			t.Errorf("%s: the %s %q is left: %s", f.Name, where, v, all.String()[max(0, at-60):min(all.Len(), at+len(v)+20)])
		}
	}
	return len(secrets)
}

// id is what became of a user's id, of several parts perhaps.
func (s *Scrubber) id(v string) string {
	parts := strings.Split(v, "/")
	for i := range parts {
		parts[i] = s.text(parts[i])
	}
	return strings.Join(parts, "/")
}
