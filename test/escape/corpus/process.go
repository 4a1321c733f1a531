package corpus

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"syscall"
)

// mapAll maps ids of a user namespace that its maker has no right to.
func mapAll() *syscall.SysProcAttr {
	all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 31}}
	return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: all, GidMappings: all}
}

// runSelfIn runs another attempt in new namespaces.
func runSelfIn(id string, env Env, flags uintptr) (string, error) {
	input, err := json.Marshal(env)
	if err != nil {
		return "", err
	}
	cmd := exec.Command("/proc/self/exe", "try", id)
	cmd.Stdin = bytes.NewReader(input)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	out, err := cmd.Output()
	var report Report
	if err == nil && json.Unmarshal(out, &report) == nil && report.Got == Breached {
		return env.Secret, nil
	}
	return string(out), err
}
