package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
)

const (
	// diskSize is that of the disk that loses its power.
	diskSize = 64 << 20
	// cutsOfADisk is how many power cuts of one disk are looked at before a new one
	// begins, with a new database.
	cutsOfADisk = 10
	// pace is how long each client waits after an answer, so that there is a cut after
	// a few entries, not after thousands.
	pace = 30 * time.Millisecond
)

// TestGate06PowerLoss has Caddy write to a disk of its own, an ext4 in a file, and looks
// at what is on that disk at random moments under load, as if the power failed: the
// system's memory is not in the file. What was acknowledged until then must be there,
// also while the database is locked and entries go to the journal. The control commits
// without an fsync, which must lose.
func TestGate06PowerLoss(t *testing.T) {
	cuts, fewer := gates.Figure(4, 200), gates.Figure(3, 50)
	strict := powerCuts(t, cuts, "fsync", false)
	journal := powerCuts(t, fewer, "fsync", true)
	normal := powerCuts(t, fewer, "commit", false)
	gates.Print(t, 6, "%d power cuts, %d acknowledged entries looked for: %d lost, %d destructive requests without an intent; %d cuts with the entries in the journal, %d: %d lost, %d without; control, durability commit (synchronous=NORMAL): %d of %d lost in %d of %d cuts",
		cuts, strict.acknowledged, strict.lost, strict.unintended, fewer, journal.acknowledged, journal.lost, journal.unintended, normal.lost, normal.acknowledged, normal.losing, fewer)
	for _, found := range []tally{strict, journal} {
		if found.lost+found.unintended+found.duplicates+found.falseSuccesses > 0 || found.acknowledged == 0 {
			t.Errorf("with fsync something is lost, or nothing was acknowledged: %+v", found)
		}
	}
	if normal.lost == 0 {
		t.Error("the control lost nothing: the rig does not lose what the disk does not have")
	}
}

// powerCuts adds up what is found after each cut; losing is how many cuts lost
// something.
func powerCuts(t *testing.T, cuts int, durability string, locked bool) tally {
	t.Helper()
	var total tally
	for left := cuts; left > 0; left -= cutsOfADisk {
		cutOneDisk(t, min(left, cutsOfADisk), durability, locked, &total)
	}
	return total
}

func cutOneDisk(t *testing.T, cuts int, durability string, locked bool, total *tally) {
	t.Helper()
	d := newDisk(t)
	defer d.close()
	auth, port := new(chunkedAuth), harness.FreePort(t)
	file := filepath.Join(d.mounted, "log", "audit.db")
	config := site(file, port, harness.Upstream(t, auth), "grace_period 10s", "fail closed\n\t\tdurability "+durability)
	rig := newKillRig(port)
	p := launch(t, harness.Command(t, harness.Binary(t), memoryDir(t), config))
	defer func() {
		p.kill()
		<-p.dead
	}()
	if !p.listens(rig.address) {
		t.Fatal("Caddy does not start on a disk in a file")
	}
	go rig.load(func() { time.Sleep(pace) }) // until Caddy is dead
	eventually(t, "nothing is acknowledged", func() bool { return rig.answered() > 0 })
	if locked {
		defer lockDatabase(t, file)()
		eventually(t, "nothing goes to the journal", func() bool {
			info, err := os.Stat(file + ".spill")
			return err == nil && info.Size() > 0
		})
	}
	for range cuts {
		time.Sleep(rand.N(150 * time.Millisecond))
		d.cut(p.cmd.Process.Pid, rig, auth, total)
	}
}

// answered is how many answers were acknowledged so far.
func (k *killRig) answered() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.acknowledged)
}

// frozen is what the clients and the auth server have seen until now.
func (k *killRig) frozen(auth *chunkedAuth) (*killRig, *chunkedAuth) {
	k.mu.Lock()
	defer k.mu.Unlock()
	seen, answered := &killRig{acknowledged: slices.Clone(k.acknowledged)}, new(chunkedAuth)
	auth.answered.Range(func(user, path any) bool {
		answered.answered.Store(user, path)
		return true
	})
	return seen, answered
}

// disk is an ext4 in a file, mounted over a loop device.
type disk struct {
	t       *testing.T
	image   string
	device  string
	mounted string
}

// newDisk skips the test where that is not allowed.
func newDisk(t *testing.T) *disk {
	t.Helper()
	image := filepath.Join(memoryDir(t), "disk.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, diskSize); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-qF", image).CombinedOutput(); err != nil {
		t.Skipf("a disk in a file needs mkfs.ext4: %v: %s", err, out)
	}
	d, err := mountDisk(t, image)
	if err != nil {
		t.Skip("a disk in a file needs loop devices and the right to mount them:", err)
	}
	return d
}

// mountDisk mounts an image: ext4 replays its journal, as after a power cut.
func mountDisk(t *testing.T, image string) (*disk, error) {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("losetup: %w: %s", err, out)
	}
	d := &disk{t: t, image: image, device: strings.TrimSpace(string(out)), mounted: filepath.Dir(image) + "/mounted"}
	if err := os.MkdirAll(d.mounted, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", d.device, d.mounted).CombinedOutput(); err != nil {
		_ = exec.Command("losetup", "-d", d.device).Run()
		return nil, fmt.Errorf("mount: %w: %s", err, out)
	}
	return d, nil
}

func (d *disk) close() {
	d.t.Helper()
	for _, command := range [][]string{{"umount", d.mounted}, {"losetup", "-d", d.device}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			d.t.Errorf("%v: %v: %s", command, err, out)
		}
	}
	_ = os.RemoveAll(filepath.Dir(d.image))
}

// cut looks at what a power cut at this moment would leave.
func (d *disk) cut(pid int, rig *killRig, auth *chunkedAuth, total *tally) {
	d.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		d.t.Fatal(err)
	}
	image := d.copied()
	seen, answered := rig.frozen(auth)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		d.t.Fatal(err)
	}
	left, err := mountDisk(d.t, image)
	if err != nil {
		d.t.Fatal("the disk after the cut: ", err)
	}
	defer left.close()
	file := filepath.Join(left.mounted, "log", "audit.db")
	total.add(seen.check(d.t, file, answered))
	checkIntegrity(d.t, file)
}

// copied is a copy of the disk as it is at one moment: the system may write to it of its
// own accord, and then a copy is of several moments, and made again.
func (d *disk) copied() string {
	d.t.Helper()
	image := filepath.Join(memoryDir(d.t), "disk.img")
	for end := time.Now().Add(hang); time.Now().Before(end); {
		before := d.written()
		if out, err := exec.Command("cp", "--sparse=always", d.image, image).CombinedOutput(); err != nil {
			d.t.Fatalf("cp: %v: %s", err, out)
		}
		if before.inFlight == "0" && d.written() == before {
			return image
		}
	}
	d.t.Fatal("the disk is never quiet although Caddy stands still")
	return ""
}

// deviceWrites is what the kernel has counted of a device's writes.
type deviceWrites struct{ writes, sectors, flushes, inFlight string }

func (d *disk) written() deviceWrites {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(d.device), "stat"))
	if err != nil {
		d.t.Fatal(err)
	}
	f := strings.Fields(string(b)) // Documentation/block/stat.rst
	if len(f) < 9 {
		d.t.Fatalf("the kernel says %q of %s", b, d.device)
	}
	w := deviceWrites{writes: f[4], sectors: f[6], inFlight: f[8]}
	if len(f) > 15 {
		w.flushes = f[15]
	}
	return w
}
