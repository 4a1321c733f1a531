package guestd

import (
	"encoding/json"
	"net/http"
	"regexp"

	"github.com/lehr-dev/lehr/internal/errs"
	"github.com/lehr-dev/lehr/internal/guest/files"
	"github.com/lehr-dev/lehr/internal/guest/initd"
	"github.com/lehr-dev/lehr/internal/guest/wire"
)

// What an identity may look like.
var (
	machineIDForm = regexp.MustCompile(`^[0-9a-f]{32}$`)
	hostnameForm  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$`)
)

// init says whom the daemon serves. Calling it again with the same body changes
// nothing; a later call replaces all of an earlier one. When it names another
// sandbox than before, or comes from another operator, all other connections
// and watchers are dropped: they were a snapshot's.
func (s *Server) init(w http.ResponseWriter, r *http.Request) {
	init, err := readInit(w, r)
	if err != nil {
		fail(w, err)
		return
	}
	digest, ok := s.opt.Secret.Current()
	if !ok {
		fail(w, errs.New(errs.Unauthenticated, "the sandbox has no operator"))
		return
	}
	if init.MachineID == "" {
		init.MachineID = initd.NewMachineID(init.SandboxID)
	}
	err = s.opt.System.Apply(initd.Identity{
		Hostname: init.Hostname, Hosts: init.Hosts, ResolvConf: init.ResolvConf,
		MachineID: init.MachineID, BootID: initd.NewBootID(init.SandboxID),
	})
	if err != nil {
		s.opt.Log.ErrorContext(r.Context(), "the identity could not be applied", "error", err)
		fail(w, err)
		return
	}
	if s.state.replace(init, digest) {
		s.conns.dropOthers(connectionOf(r.Context()))
		s.watchers.removeAll()
	}
	w.WriteHeader(http.StatusNoContent)
}

func readInit(w http.ResponseWriter, r *http.Request) (wire.Init, error) {
	var init wire.Init
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxInit)).Decode(&init)
	if err != nil {
		return init, errs.New(errs.Invalid, "the body is no valid JSON: %w", err)
	}
	if init.MachineID != "" && !machineIDForm.MatchString(init.MachineID) {
		return init, errs.New(errs.Invalid, "not 32 hexadecimal digits").WithField("machineId")
	}
	if init.Hostname != "" && !hostnameForm.MatchString(init.Hostname) {
		return init, errs.New(errs.Invalid, "not a host name").WithField("hostname")
	}
	if init.DefaultWorkdir != "" {
		init.DefaultWorkdir, err = files.Resolve(init.DefaultWorkdir, "", "/")
	}
	return init, err
}

// sync writes out the sandbox's file systems.
func (s *Server) sync(w http.ResponseWriter, _ *http.Request) {
	s.opt.System.Sync()
	w.WriteHeader(http.StatusNoContent)
}

// endProcesses ends every process but the daemon.
func (s *Server) endProcesses(w http.ResponseWriter, r *http.Request) {
	if err := s.opt.System.EndProcesses(r.Context()); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// envs answers with the default environment, completed by PATH and HOME.
func (s *Server) envs(w http.ResponseWriter, r *http.Request) {
	init := s.current()
	user, err := s.userOf(r.Header, "", init)
	if err != nil {
		fail(w, err)
		return
	}
	env := map[string]string{"PATH": defaultPath, "HOME": user.Home}
	for k, v := range init.EnvVars {
		env[k] = v
	}
	writeJSON(w, http.StatusOK, env)
}
