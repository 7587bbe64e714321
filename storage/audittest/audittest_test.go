package audittest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/audittest"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// printer is a T that prints to the example's output.
type printer struct{}

func (printer) Helper() {}

func (printer) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// signIn stands for what a project tests: something that leaves an entry.
func signIn(store storage.Store, user string, status storage.Status, code int) {
	e := storage.Entry{
		UserID: user, Action: "sign-in:email", Status: status, Severity: severity.Medium, IPAddress: "203.0.113.7",
		Metadata: fmt.Appendf(nil, `{"statusCode":%d,"error":{"code":"WRONG"}}`, code),
	}
	e.Sanitize()
	if err := store.Write(context.Background(), e); err != nil {
		panic(err)
	}
}

func Example() {
	t := printer{} // in a test, its *testing.T
	store := memory.New(0)

	signIn(store, "u1", storage.Success, 200)

	audittest.Expect(t, store).Action("sign-in:email").Status("success").User("u1").Once()
	audittest.Expect(t, store).Status("failed").Never()
	fmt.Println("as expected")
	// Output: as expected
}

func ExampleExpectation_Once() {
	t := printer{}
	store := memory.New(0)
	signIn(store, "", storage.Failed, 401)

	e := audittest.Expect(t, store).Status("failed").Metadata("statusCode", "401").Metadata("error.code", "WRONG").Once()
	fmt.Println(e.IPAddress)
	// Output: 203.0.113.7
}

// What a failure says.
func ExampleExpectation_Times() {
	t := printer{}
	store := memory.New(0)
	signIn(store, "u1", storage.Success, 200)

	audittest.Expect(t, store).Action("sign-in:email").User("u2").Times(2)
	// Output:
	// entries with action "sign-in:email", user "u2": found 0, want 2
	// the log has 1:
	//   action "sign-in:email", status "success", severity "medium", user "u1", address "203.0.113.7", metadata {"statusCode":200,"error":{"code":"WRONG"}}
}

// complaints is a T that keeps what it is told.
type complaints struct{ text []string }

func (*complaints) Helper() {}

func (c *complaints) Errorf(format string, args ...any) {
	c.text = append(c.text, fmt.Sprintf(format, args...))
}

func TestEachConditionIsLookedAt(t *testing.T) {
	store := memory.New(0)
	signIn(store, "u1", storage.Success, 200)
	on := func(c *complaints) *audittest.Expectation { return audittest.Expect(c, store) }
	for name, check := range map[string]func(*complaints){
		"action": func(c *complaints) { on(c).Action("sign-out").Once() }, "status": func(c *complaints) { on(c).Status("failed").Once() },
		"severity": func(c *complaints) { on(c).Severity(severity.Low).Once() }, "user": func(c *complaints) { on(c).User("").Once() },
		"address": func(c *complaints) { on(c).IPAddress("::1").Once() }, "metadata": func(c *complaints) { on(c).Metadata("statusCode", "201").Once() },
		"entries: found 1, want 0": func(c *complaints) { on(c).Never() }, "metadata.none \"\": found 1": func(c *complaints) { on(c).Metadata("none", "").Times(2) },
	} {
		c := new(complaints)
		if check(c); len(c.text) != 1 || !strings.Contains(c.text[0], name) || !strings.Contains(c.text[0], "the log has 1:") {
			t.Errorf("%s: %q", name, c.text)
		}
	}
	c := new(complaints)
	if found := on(c).All(); len(found) != 1 || len(c.text) != 0 {
		t.Errorf("%v, %q", found, c.text)
	}
	audittest.Expect(t, store).Times(1)
}

func TestWithinWaitsForWhatComesLater(t *testing.T) {
	store := memory.New(0)
	time.AfterFunc(20*time.Millisecond, func() { signIn(store, "u1", storage.Success, 200) })
	audittest.Expect(t, store).User("u1").Within(10 * time.Second).Once()
	c := new(complaints)
	time.AfterFunc(20*time.Millisecond, func() { signIn(store, "u2", storage.Success, 200) })
	if audittest.Expect(c, store).User("u2").Within(300 * time.Millisecond).Never(); len(c.text) != 1 {
		t.Errorf("%q", c.text)
	}
}

func TestALongLogIsCut(t *testing.T) {
	store := memory.New(0)
	for i := range 30 {
		signIn(store, fmt.Sprintf("u%d", i), storage.Success, 200)
	}
	c := new(complaints)
	audittest.Expect(c, store).User("x").Once()
	if lines := strings.Count(c.text[0], "\n"); lines != 21 || strings.Contains(c.text[0], `"u9"`) || !strings.Contains(c.text[0], `"u29"`) {
		t.Errorf("%d lines: %s", lines, c.text[0])
	}
}
