package mirror

import "time"

// SetStall sets how long a mirror may send nothing.
func (p *Proxy) SetStall(d time.Duration) { p.stall = d }
