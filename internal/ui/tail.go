package ui

// keptOutput bounds what a Tail holds, in bytes: programs may print without end.
const keptOutput = 64 << 10

// Tail keeps the end of what is written to it. It never fails.
type Tail struct{ buf []byte }

func (t *Tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - keptOutput; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *Tail) String() string { return string(t.buf) }
