package severity

import (
	"encoding/json"
	"testing"
)

func TestInferKeepsTheReadmeTableAndRepairsItsSubstrings(t *testing.T) {
	for _, c := range []struct {
		event Event
		want  Level
	}{
		{Event{Action: "admin:ban-user", Class: "admin"}, Critical},
		{Event{Action: "admin:impersonate-user", Class: "admin"}, Critical},
		{Event{Action: "admin:unban-user", Class: "admin"}, High},
		{Event{Action: "admin:remove-user", Class: "admin"}, High},
		{Event{Action: "admin:set-role", Class: "admin"}, High},
		{Event{Action: "admin:set-role", Class: "admin", Failed: true}, High},
		{Event{Action: "admin:user-export"}, High},
		{Event{Action: "delete-user", Class: "account"}, High},
		{Event{Action: "delete-user:callback", Class: "account"}, High},
		{Event{Action: "my-delete-user-thing"}, High},
		{Event{Action: "revoke-session", Class: "session"}, High},
		{Event{Action: "organization:delete", Class: "organization"}, High},
		{Event{Action: "organization:create", Class: "organization"}, Low},
		{Event{Action: "api-key:delete", Class: "token"}, High},
		{Event{Action: "sign-in:email", Class: "sign-in"}, Medium},
		{Event{Action: "sign-in:email", Class: "sign-in", Failed: true}, High},
		{Event{Action: "magic-link:verify", Class: "sign-in", Failed: true}, High},
		{Event{Action: "sign-out", Class: "sign-out"}, Medium},
		{Event{Action: "two-factor:verify-totp", Class: "mfa", Failed: true}, High},
		{Event{Action: "change-password", Class: "credential"}, Medium},
		{Event{Action: "sign-up:email", Class: "sign-up"}, Low},
		{Event{Action: "sign-up:email", Class: "sign-up", Failed: true}, Low},
		{Event{Action: "banner:update"}, Low},
		{Event{Action: ""}, Low},
	} {
		if got := Infer(c.event); got != c.want {
			t.Errorf("Infer(%+v) = %v, want %v", c.event, got, c.want)
		}
	}
}

func TestLevelsRoundTripAsText(t *testing.T) {
	for l := Low; l <= Critical; l++ {
		b, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		var back Level
		if err := json.Unmarshal(b, &back); err != nil || back != l {
			t.Errorf("%s came back as %v, %v", b, back, err)
		}
	}
	if _, err := Parse("urgent"); err == nil {
		t.Error("an unknown level was accepted")
	}
	if _, err := Level(9).MarshalText(); err == nil {
		t.Error("a level out of range was written")
	}
}

func TestInferDoesNotAllocate(t *testing.T) {
	e := Event{Action: "organization:update-member-role", Class: "organization", Failed: true}
	if n := testing.AllocsPerRun(100, func() { Infer(e) }); n != 0 {
		t.Errorf("Infer allocates %v times", n)
	}
}
