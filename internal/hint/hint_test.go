package hint_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"meros/internal/hint"
)

func TestOfFindsEveryHintOnceOutermostFirst(t *testing.T) {
	cause := errors.New("no such file")
	inner := hint.Add(cause, "install %s", "qemu-img")
	joined := errors.Join(inner, hint.Add(errors.New("other"), "install qemu-img"), hint.Add(errors.New("third"), "look here"))
	err := hint.Add(fmt.Errorf("pack: %w", joined), "see the log")

	want := []string{"see the log", "install qemu-img", "look here"}
	if diff := cmp.Diff(want, hint.Of(err)); diff != "" {
		t.Errorf("Of(err) differs (-want +got):\n%s", diff)
	}
	if !errors.Is(err, cause) {
		t.Error("a hint hid its cause from errors.Is")
	}
	if got, want := inner.Error(), "no such file"; got != want {
		t.Errorf("Error() = %q, want %q: advice must not leak into the fact", got, want)
	}
}

func TestAddToNilIsNil(t *testing.T) {
	if err := hint.Add(nil, "x"); err != nil {
		t.Errorf("Add(nil) = %v, want nil", err)
	}
}
