package caddymodule

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/logclient"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// maxTailed is how many entries tail remembers, not to print one twice.
	maxTailed = 10000
	// tailedBefore is of which time before its beginning a tail must know what there was, and
	// maxTailedBefore of how many entries at most: after a lost connection it hears from two
	// minutes on before the last that it has heard of, which may be two minutes old itself, and of
	// 5,000 at most. The rest is for clocks that differ.
	tailedBefore    = 10 * time.Minute
	maxTailedBefore = 5000
)

func tailCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tail [<filters>] [--lines <n>] [--output table|jsonl] [--db <file> | --address <admin> | --config <file>]",
		Short: "Shows entries as they are written",
		Long: `
Shows the last entries, then new ones as they are written, until Ctrl-C. An entry that was written before its request
was forwarded (an intent, status unknown) is shown again when its outcome is known, under the same id. When the
connection is lost it is made again, and what was written meanwhile is shown: the newest 5,000 entries of it; if there
were more, it says of which time they are. A tail begins with the last 5 seconds, also with --lines 0.
` + whereHelp + `
Exit status: 0 after Ctrl-C, 1 after an error.`,
		Example: `  caddy audit-log tail
  caddy audit-log tail --status failed --severity high
  caddy audit-log tail --lines 0 --output jsonl | jq -r .action`,
	}
	sourceFlags(cmd)
	filterFlags(cmd)
	cmd.Flags().IntP("lines", "n", 10, "how many of the last entries to show first; at most 500")
	outputFlags(cmd, outputTable, outputLines)
	return readsLog(cmd, 0, runTail)
}

func runTail(ctx context.Context, f caddycmd.Flags) (int, error) {
	form, s, err := outputOf(f, outputLines, outputTable, outputLines)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	q, err := filters(f, time.Now())
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	lines := f.Int("lines")
	if lines < 0 || lines > storage.MaxLimit {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("bad --lines %d: give 0 to %d", lines, storage.MaxLimit)
	}
	client, done, err := openLog(ctx, f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	defer done()
	t, err := newTailer(s, form)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	sayHowAccountsAreFound(q, false)
	t.lookBack(ctx, client, q)
	if err := client.Follow(ctx, q, t.stream(client, q, lines)); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	return caddy.ExitCodeSuccess, nil
}

// tailer prints entries once for each thing that they say.
type tailer struct {
	s      *screen
	layout *layout
	json   *jsonWriter // nil: a table
	out    *bufio.Writer
	began  bool
	again  bool // the connection was lost and stands again
	seed   maphash.Seed
	said   *lru.Cache[string, uint64] // by id, a hash of what was printed last
	before map[string]uint64          // by id, a hash of what was there before it began
}

func newTailer(s *screen, form string) (*tailer, error) {
	said, err := lru.New[string, uint64](maxTailed)
	if err != nil {
		return nil, err
	}
	t := &tailer{s: s, said: said, before: map[string]uint64{}, seed: maphash.MakeSeed(), out: bufio.NewWriter(Stdout())}
	if form == outputLines {
		t.json = &jsonWriter{w: t.out, lines: true}
	} else {
		t.layout = s.layoutFor(nil, false)
		t.layout.print(s, nil, true)
	}
	return t, nil
}

// stream is what it does with what it hears.
func (t *tailer) stream(client *logclient.Client, q url.Values, lines int) logclient.Stream {
	return logclient.Stream{
		Open: func(ctx context.Context) error {
			if t.began {
				t.again = true
				fmt.Fprintln(os.Stderr, "connected again")
				return nil
			}
			t.began = true
			return t.first(ctx, client, q, lines)
		},
		Entry: t.print,
		Missed: func(from, to string) {
			fmt.Fprintf(os.Stderr, "more was written meanwhile than is shown again: for all of it see caddy audit-log list --from %s --to %s\n", oneLine(from), oneLine(to))
		},
		Lost: func(err error) {
			fmt.Fprintf(os.Stderr, "the connection was lost, trying again: %s\n", oneLine(err.Error()))
		},
	}
}

// first prints the last entries.
func (t *tailer) first(ctx context.Context, client *logclient.Client, q url.Values, lines int) error {
	if lines == 0 {
		return nil
	}
	page, err := client.List(ctx, parameters(q, "limit", strconv.Itoa(lines)))
	if err != nil {
		return err
	}
	for _, e := range slices.Backward(page.Entries) {
		if err := t.print(e); err != nil {
			return err
		}
	}
	return nil
}

// lookBack takes up what is there before the tail begins. What is not listed may be shown as new
// after a lost connection: better than no tail.
func (t *tailer) lookBack(ctx context.Context, client *logclient.Client, q url.Values) {
	q = parameters(q, "from", time.Now().Add(-tailedBefore).UTC().Format(storage.TimeLayout), "limit", strconv.Itoa(storage.MaxLimit))
	for len(t.before) < maxTailedBefore {
		page, err := client.List(ctx, q)
		if err != nil {
			return
		}
		for _, e := range page.Entries {
			t.before[e.ID] = maphash.Bytes(t.seed, e.Raw)
		}
		if page.NextCursor == "" {
			return
		}
		q.Set("cursor", page.NextCursor)
	}
}

// print prints an entry, unless it has said just this before. After a lost connection the stream
// begins earlier than the tail did: what was there before and is the same is not printed.
func (t *tailer) print(e logclient.Entry) error {
	sum := maphash.Bytes(t.seed, e.Raw)
	said, ok := t.said.Get(e.ID)
	if !ok && t.again {
		said, ok = t.before[e.ID]
	}
	if ok && said == sum {
		return nil
	}
	t.said.Add(e.ID, sum)
	if t.json == nil {
		t.layout.print(t.s, []logclient.Entry{e}, false)
		return nil
	}
	return errors.Join(t.json.print([]logclient.Entry{e}), t.out.Flush())
}
