package guestd

import "testing"

func TestCPUMeter(t *testing.T) {
	t.Parallel()
	var m cpuMeter
	for _, step := range []struct {
		stat string
		want float64
	}{
		{"cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 2 3\n", 20},
		{"cpu  10 0 10 80 0 0 0 0 0 0\n", 20}, // no time has passed
		{"cpu  60 0 10 130 0 0 0 0 0 0", 50},
		{"cpu  60 0 10 130 100 0 0 0 9 9", 0},
		{"cpu  1 0 0 1 0 0 0 0 0 0", 0}, // begun anew
		{"cpu  2 0 0 1 0 0 0 0 0 0", 100},
		{"nonsense", 100},
		{"cpu  x 0 0 1", 100},
		{"cpu  3 0 0 3 0 0 0 0 0 0", 50},
	} {
		if got := m.used(parseCPUTimes(step.stat)); got != step.want {
			t.Errorf("after %q: %v, want %v", step.stat, got, step.want)
		}
	}
}

func FuzzParseCPUTimes(f *testing.F) {
	f.Add("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1")
	f.Fuzz(func(t *testing.T, stat string) {
		if times := parseCPUTimes(stat); times.busy > times.total {
			t.Errorf("parseCPUTimes(%q) = %+v: more busy than there was time", stat, times)
		}
	})
}
