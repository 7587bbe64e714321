package profile_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

var jsonFence = regexp.MustCompile("(?s)```json\n(.*?)```")

// TestTheProfilesInTheDocumentsWork checks every profile that docs/profiles.md shows.
func TestTheProfilesInTheDocumentsWork(t *testing.T) {
	b, err := os.ReadFile("../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	s, n := compiledSchema(t), 0
	for _, m := range jsonFence.FindAllStringSubmatch(string(b), -1) {
		if !strings.Contains(m[1], `"routes"`) {
			continue
		}
		n++
		_, warnings, err := profile.Check([]byte(m[1]))
		if err != nil || len(warnings) > 0 {
			t.Errorf("%v, %v in\n%s", err, warnings, m[1])
		}
		if err := validate(t, s, []byte(m[1])); err != nil {
			t.Error(err)
		}
	}
	if n != 2 {
		t.Errorf("%d profiles were found", n)
	}
}
