package hostrpc

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	hostv1 "github.com/lehr-dev/lehr/api/gen/host/v1"
	"github.com/lehr-dev/lehr/internal/agent"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func resourcesOut(r lehr.Resources) *hostv1.Resources {
	return &hostv1.Resources{Vcpus: r.VCPUs, MemoryMb: r.MemoryMB, DiskSizeMb: r.DiskMB}
}

func resourcesIn(m *hostv1.Resources) lehr.Resources {
	return lehr.Resources{VCPUs: m.GetVcpus(), MemoryMB: m.GetMemoryMb(), DiskMB: m.GetDiskSizeMb()}
}

func fenceOut(f lehr.Fence) *hostv1.Fence {
	return &hostv1.Fence{BuildId: string(f.BuildID), Attempt: f.Attempt}
}

func fenceIn(m *hostv1.Fence) lehr.Fence {
	return lehr.Fence{BuildID: lehr.BuildID(m.GetBuildId()), Attempt: m.GetAttempt()}
}

func envOut(vars []lehr.EnvVar) []*hostv1.EnvVar {
	var out []*hostv1.EnvVar
	for _, v := range vars {
		out = append(out, &hostv1.EnvVar{Name: v.Name, Value: []byte(v.Value)})
	}
	return out
}

func envIn(list []*hostv1.EnvVar) []lehr.EnvVar {
	var out []lehr.EnvVar
	for _, m := range list {
		out = append(out, lehr.EnvVar{Name: m.GetName(), Value: string(m.GetValue())})
	}
	return out
}

func envMapOut(vars map[string]string) []*hostv1.EnvVar {
	var out []*hostv1.EnvVar
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		out = append(out, &hostv1.EnvVar{Name: name, Value: []byte(vars[name])})
	}
	return out
}

func envMapIn(list []*hostv1.EnvVar) map[string]string {
	if len(list) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, m := range list {
		out[m.GetName()] = string(m.GetValue())
	}
	return out
}

func argsOut(args []string) [][]byte {
	var out [][]byte
	for _, a := range args {
		out = append(out, []byte(a))
	}
	return out
}

func argsIn(args [][]byte) []string {
	var out []string
	for _, a := range args {
		out = append(out, string(a))
	}
	return out
}

func configOut(c lehr.ImageConfig) *hostv1.ImageConfig {
	return &hostv1.ImageConfig{
		Env: envOut(c.Env), User: c.User, Workdir: c.Workdir, Entrypoint: c.Entrypoint, Cmd: c.Cmd, Shell: c.Shell,
		Labels: envOut(c.Labels), Exposed: c.Exposed, Debian: c.Debian,
	}
}

func configIn(m *hostv1.ImageConfig) lehr.ImageConfig {
	return lehr.ImageConfig{
		Env: envIn(m.GetEnv()), User: m.GetUser(), Workdir: m.GetWorkdir(), Entrypoint: m.GetEntrypoint(), Cmd: m.GetCmd(), Shell: m.GetShell(),
		Labels: envIn(m.GetLabels()), Exposed: m.GetExposed(), Debian: m.GetDebian(),
	}
}

func createOut(r agent.CreateSandbox) *hostv1.CreateSandboxRequest {
	return &hostv1.CreateSandboxRequest{
		SandboxId: string(r.ID), TeamId: string(r.TeamID), TemplateId: string(r.TemplateID), VersionId: string(r.VersionID),
		Fence: fenceOut(r.Fence), ImageDigest: string(r.Image), SnapshotDigest: string(r.Snapshot),
		Vcpus: r.Resources.VCPUs, MemoryMb: r.Resources.MemoryMB, DiskSizeMb: r.Resources.DiskMB,
		Config: configOut(r.Config), Env: envMapOut(r.Env), Timeout: durationpb.New(r.TTL),
		AccessToken: r.AccessToken,
	}
}

func createIn(m *hostv1.CreateSandboxRequest) agent.CreateSandbox {
	return agent.CreateSandbox{
		ID: lehr.SandboxID(m.GetSandboxId()), TeamID: lehr.TeamID(m.GetTeamId()), TemplateID: lehr.TemplateID(m.GetTemplateId()),
		VersionID: lehr.VersionID(m.GetVersionId()), Fence: fenceIn(m.GetFence()), Image: lehr.Digest(m.GetImageDigest()),
		Snapshot:  lehr.Digest(m.GetSnapshotDigest()),
		Resources: lehr.Resources{VCPUs: m.GetVcpus(), MemoryMB: m.GetMemoryMb(), DiskMB: m.GetDiskSizeMb()},
		Config:    configIn(m.GetConfig()), Env: envMapIn(m.GetEnv()), TTL: m.GetTimeout().AsDuration(),
		AccessToken: m.GetAccessToken(),
	}
}

func sandboxOut(s agent.Sandbox) *hostv1.Sandbox {
	m := &hostv1.Sandbox{
		SandboxId: string(s.ID), TeamId: string(s.TeamID), Fence: fenceOut(s.Fence), State: string(s.State), Reason: string(s.Reason),
		Resources: resourcesOut(s.Resources),
	}
	if !s.ExpiresAt.IsZero() {
		m.ExpiresAt = timestamppb.New(s.ExpiresAt)
	}
	return m
}

func sandboxIn(m *hostv1.Sandbox) agent.Sandbox {
	s := agent.Sandbox{
		ID: lehr.SandboxID(m.GetSandboxId()), TeamID: lehr.TeamID(m.GetTeamId()), Fence: fenceIn(m.GetFence()),
		State: lehr.SandboxState(m.GetState()), Reason: lehr.SandboxReason(m.GetReason()), Resources: resourcesIn(m.GetResources()),
	}
	if m.GetExpiresAt() != nil {
		s.ExpiresAt = m.GetExpiresAt().AsTime()
	}
	return s
}

func execOut(r agent.Exec) *hostv1.ExecRequest {
	return &hostv1.ExecRequest{
		SandboxId: string(r.SandboxID), Args: argsOut(r.Args), Env: envOut(r.Env), CleanEnv: r.CleanEnv, User: r.User, Workdir: []byte(r.Workdir),
		Timeout: durationOut(r.Timeout), Stdin: r.Stdin, Linger: r.Linger,
	}
}

func execIn(m *hostv1.ExecRequest) agent.Exec {
	return agent.Exec{
		SandboxID: lehr.SandboxID(m.GetSandboxId()), Args: argsIn(m.GetArgs()), Env: envIn(m.GetEnv()), CleanEnv: m.GetCleanEnv(), User: m.GetUser(),
		Workdir: string(m.GetWorkdir()), Timeout: m.GetTimeout().AsDuration(), Stdin: m.Stdin, Linger: m.GetLinger(),
	}
}

func durationOut(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func exitOut(e agent.Exit) *hostv1.ExecExit {
	return &hostv1.ExecExit{Code: e.Code, Signal: e.Signal, TimedOut: e.TimedOut}
}

func exitIn(m *hostv1.ExecExit) agent.Exit {
	return agent.Exit{Code: m.GetCode(), Signal: m.GetSignal(), TimedOut: m.GetTimedOut()}
}

func imageOut(i agent.Image) *hostv1.Image {
	return &hostv1.Image{Digest: string(i.Digest), SizeBytes: i.Bytes, Config: configOut(i.Config), Source: i.Source}
}

func imageIn(m *hostv1.Image) agent.Image {
	return agent.Image{Digest: lehr.Digest(m.GetDigest()), Bytes: m.GetSizeBytes(), Config: configIn(m.GetConfig()), Source: m.GetSource()}
}

func snapshotOut(s agent.Snapshot) *hostv1.Snapshot {
	return &hostv1.Snapshot{
		Digest: string(s.Digest), ImageDigest: string(s.Image), SizeBytes: s.Bytes, EngineDigest: string(s.EngineDigest),
		CpuFeatures: string(s.CPUFeatures), Guest: s.Guest,
	}
}

func snapshotIn(m *hostv1.Snapshot) agent.Snapshot {
	return agent.Snapshot{
		Digest: lehr.Digest(m.GetDigest()), Image: lehr.Digest(m.GetImageDigest()), Bytes: m.GetSizeBytes(),
		EngineDigest: lehr.Digest(m.GetEngineDigest()), CPUFeatures: lehr.Digest(m.GetCpuFeatures()), Guest: m.GetGuest(),
	}
}

func fileOut(f agent.File) *hostv1.File {
	return &hostv1.File{SandboxId: string(f.SandboxID), User: f.User, Path: []byte(f.Path)}
}

func fileIn(m *hostv1.File) agent.File {
	return agent.File{SandboxID: lehr.SandboxID(m.GetSandboxId()), User: m.GetUser(), Path: string(m.GetPath())}
}
