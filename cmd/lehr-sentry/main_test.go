package main

import "testing"

func TestHeapLimit(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args []string
		want int64
	}{
		{nil, 0},
		{[]string{"boot", "--total-memory=4294967296", "id"}, 1 << 30},
		{[]string{"boot", "--total-memory", "4294967296", "id"}, 1 << 30},
		{[]string{"boot", "--total-memory=134217728"}, heapLeast},
		{[]string{"umount", "--total-memory=x"}, 0},
		{[]string{"boot", "--total-memory=-1"}, 0},
		{[]string{"boot", "--total-memory"}, 0},
	} {
		if got := heapLimit(test.args); got != test.want {
			t.Errorf("heapLimit(%q) = %d, want %d", test.args, got, test.want)
		}
	}
}
