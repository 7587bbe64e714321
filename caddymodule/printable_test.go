package caddymodule

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"
	"testing/iotest"
)

func TestWhatATerminalWouldObeyIsWrittenOut(t *testing.T) {
	for text, want := range map[string]string{
		"plain é 🎈":           "plain é 🎈",
		"\x1b[31mred":         `\u001b[31mred`,
		"a\nb\tc\r":           "a\nb\tc" + `\u000d`,
		"\u009b31m \x7f":      `\u009b31m \u007f`,
		"abc\u202ecba\u2069":  `abc\u202ecba\u2069`,
		"line\u2028separator": `line\u2028separator`,
		"\x9b31m":             `\x9b31m`,
		"\ufffd stays":        "\ufffd stays",
	} {
		var whole, pieces bytes.Buffer
		_, _ = io.WriteString(&console{w: &whole}, text)
		_, _ = io.Copy(&console{w: &pieces}, iotest.OneByteReader(bytes.NewBufferString(text)))
		if whole.String() != want || pieces.String() != want {
			t.Errorf("%q is written %q, byte by byte %q, want %q", text, whole.String(), pieces.String(), want)
		}
	}
	if got := oneLine("a\nb"); got != `a\u000ab` {
		t.Errorf("a value with a line feed is %q", got)
	}
}

func TestAConsoleChangesNoJSON(t *testing.T) {
	in := map[string]string{"k\u202e": "\x1b[31m \u009b \x7f é \u2028 \" \\ \n"}
	var out bytes.Buffer
	if err := printJSON(&console{w: &out}, in); err != nil {
		t.Fatal(err)
	}
	var back map[string]string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back["k\u202e"] != in["k\u202e"] || bytes.ContainsAny(out.Bytes(), "\x1b\u009b\x7f\u202e") {
		t.Errorf("%v: %q", err, out.String())
	}
}
