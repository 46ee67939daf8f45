package lifecycle

import (
	"fmt"
	"strconv"

	"meros/internal/hint"
)

// epochName is the variable that says which time is the latest in what is built,
// in seconds since 1970 (reproducible-builds.org, SOURCE_DATE_EPOCH).
const epochName = "SOURCE_DATE_EPOCH"

// epoch is the caller's SOURCE_DATE_EPOCH; 0 if there is none.
func (b Builder) epoch() (int64, error) {
	if b.Getenv == nil || b.Getenv(epochName) == "" {
		return 0, nil
	}
	value := b.Getenv(epochName)
	seconds, err := strconv.ParseInt(value, 10, 34) // as far as ext4 counts
	if err != nil || seconds < 1 {
		return 0, hint.Add(fmt.Errorf("%s is %q", epochName, value), "it has to be a number of seconds since 1970, such as `date +%%s` prints")
	}
	return seconds, nil
}

// epochEnv hands the epoch on to hooks.
func epochEnv(seconds int64) []string {
	if seconds == 0 {
		return nil
	}
	return []string{epochName + "=" + strconv.FormatInt(seconds, 10)}
}
