package session

import "fmt"

// Stage is how far an attempt to log in got.
type Stage int

// The stages, in the order of an attempt.
const (
	StageKeys     Stage = iota + 1 // the host lacks the target's keys
	StagePort                      // nothing accepts connections at the address
	StageBanner                    // the port is open, but no SSH server speaks
	StageProtocol                  // the SSH server broke off
	StageHostKey                   // the server is not the guest that was built
	StageLogin                     // the server does not accept the client key
)

var stageWords = map[Stage]string{
	StageKeys:     "no keys",
	StagePort:     "port closed",
	StageBanner:   "no answer from the SSH server",
	StageProtocol: "the SSH server broke off",
	StageHostKey:  "wrong host key",
	StageLogin:    "login refused",
}

func (s Stage) String() string { return stageWords[s] }

// DialError says at which stage a login failed, and why. It matches
// ErrUnreachable, and ErrNotBuilt, ErrHostKey or ErrRefused by stage.
type DialError struct {
	FullID string
	Addr   string // address and port; "" before they matter
	Stage  Stage
	Err    error
}

func (e *DialError) Error() string {
	if e.Addr == "" {
		return fmt.Sprintf("reach %s: %v", e.FullID, e.Err)
	}
	return fmt.Sprintf("reach %s at %s: %v", e.FullID, e.Addr, e.Err)
}

// Unwrap returns the cause.
func (e *DialError) Unwrap() error { return e.Err }

// Is makes the sentinels match by stage.
func (e *DialError) Is(target error) bool {
	switch target {
	case ErrUnreachable:
		return true
	case ErrNotBuilt:
		return e.Stage == StageKeys
	case ErrHostKey:
		return e.Stage == StageHostKey
	case ErrRefused:
		return e.Stage == StageLogin
	}
	return false
}

// Fatal reports whether waiting cannot help: keys are missing or wrong. A
// refused login may be a guest that is still booting (pam_nologin(8)).
func (e *DialError) Fatal() bool {
	return e.Stage == StageKeys || e.Stage == StageHostKey
}
