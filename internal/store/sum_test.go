package store

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sumOf is the sum of a file that holds some bytes at a place.
func sumOf(t *testing.T, name string, size, at int64, content string) string {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(content), at); err != nil {
		t.Fatal(err)
	}
	sum, err := hashFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestHolesAreNotRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "sparse")
	started := time.Now()
	const size = 1 << 40
	end := sumOf(t, name, size, size-3, "end")
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("a file that is nothing but a hole took %s", took)
	}
	for what, other := range map[string]string{
		"content": sumOf(t, name, size, size-3, "enD"),
		"place":   sumOf(t, name, size, size-4, "end"),
		"size":    sumOf(t, name, size+1, size-3, "end"),
		"none":    sumOf(t, name, size, 0, ""),
	} {
		if other == end {
			t.Errorf("%s: two files have one sum", what)
		}
	}
}

func TestHolesAreZeros(t *testing.T) {
	dir := t.TempDir()
	const size = 3*chunk + 5
	sparse := sumOf(t, filepath.Join(dir, "sparse"), size, 2*chunk, "x")
	dense := make([]byte, size)
	dense[2*chunk] = 'x'
	if got := sumOf(t, filepath.Join(dir, "dense"), 0, 0, string(dense)); got != sparse {
		t.Error("zeros and holes have two sums")
	}
}

func TestSumIsKeptUntilTheFileChanges(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	fresh := sumOf(t, name, 0, 0, "content")
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	state := fileState{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
	if _, kept := sums.Load(state); kept {
		t.Error("the sum of a file that has changed just now is kept")
	}
	sums.Store(state, "known")
	if got, err := hashFile(name); got != "known" || err != nil {
		t.Errorf("hashFile = %q, %v, want what is known of it", got, err)
	}
	time.Sleep(20 * time.Millisecond)
	if got := sumOf(t, name, 0, 0, "content"); got != fresh {
		t.Errorf("after a change: %q, want %q", got, fresh)
	}
}
