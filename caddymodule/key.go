package caddymodule

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// keyBytes is the length of the key of keyed hashes.
const keyBytes = 32

// keyName is the key file's name unless another is given.
const keyName = "hash.key"

// readOrMakeKey reads the key file, or makes it with mode 0600. It refuses a file
// that others can read: whoever has the key can test guesses against the hashes.
func readOrMakeKey(path string) ([]byte, error) {
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := makeKey(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("audit log key file %s: %w: check that the user who runs Caddy may write there", path, err)
	}
	return readKey(path)
}

func readKey(path string) ([]byte, error) {
	info, err := os.Stat(path) // of a link, which secrets in Kubernetes are, what it leads to
	if err != nil {
		return nil, fmt.Errorf("audit log key file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("audit log key file %s: it must be a regular file that only its owner can read: run chmod 600 on it", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("audit log key file: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) < keyBytes {
		return nil, fmt.Errorf("audit log key file %s: it must hold at least %d bytes in hexadecimal; to make a new one move it away (earlier hashes cannot be matched then)", path, keyBytes)
	}
	return key, nil
}

// makeKey writes a new key so that a reader never sees half of it, and never over
// an existing one.
func makeKey(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	key := make([]byte, keyBytes)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".hash.key.*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(hex.EncodeToString(key) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}
