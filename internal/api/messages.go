package api

import (
	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
	"github.com/lehr-dev/lehr/internal/lehr"
)

func buildMessage(b lehr.Build) *lehrv1.Build {
	m := &lehrv1.Build{
		Id: string(b.ID), Name: b.Spec.Name, Tag: b.Spec.Tag, Status: string(b.Status), Attempt: b.Attempt,
		BaseTemplate: b.Spec.BaseTemplate, BaseDigest: orNull(b.BaseDigest), Recipe: b.Spec.Recipe, Healthcheck: orNull(b.Spec.Healthcheck),
		Vcpus: b.Spec.Resources.VCPUs, MemoryMb: b.Spec.Resources.MemoryMB, DiskMb: b.Spec.Resources.DiskMB,
		SkipPrePost: b.Spec.SkipPrePost, TeamId: string(b.TeamID), TemplateId: string(b.TemplateID),
		HostId: orNull(b.HostID), SandboxId: orNull(b.SandboxID), CurrentStep: b.CurrentStep, TotalSteps: b.TotalSteps,
		CreatedAt: stamp(b.CreatedAt), StartedAt: stamp(b.StartedAt), CompletedAt: stamp(b.CompletedAt),
		Error: buildErrorMessage(b.Error), Artifact: artifactMessage(b.Artifact),
		Metadata: b.Spec.Metadata, BaseImage: orNull(b.Spec.BaseImage),
	}
	for _, s := range b.Steps {
		m.Steps = append(m.Steps, stepMessage(s))
	}
	return m
}

func buildErrorMessage(e *lehr.BuildError) *lehrv1.BuildError {
	if e == nil {
		return nil
	}
	m := &lehrv1.BuildError{Code: e.Code, Message: e.Message, Remedy: orNull(e.Remedy), Fault: string(e.Fault), Phase: orNull(e.Phase)}
	if e.Step > 0 {
		m.Step = &e.Step
	}
	return m
}

func artifactMessage(a *lehr.Artifact) *lehrv1.BuildArtifact {
	if a == nil {
		return nil
	}
	return &lehrv1.BuildArtifact{
		Type: string(a.Type), ImageDigest: string(a.ImageDigest), SnapshotDigest: orNull(a.SnapshotDigest),
		SizeBytes: a.SizeBytes, Version: string(a.Version),
	}
}

func stepMessage(s lehr.StepResult) *lehrv1.BuildStep {
	return &lehrv1.BuildStep{
		Step: s.Step, Phase: string(s.Phase), Cmd: s.Cmd, Status: string(s.Status), Exit: s.Exit, Ok: s.OK, ElapsedMs: s.Elapsed.Milliseconds(),
		Cached: s.Cached, CacheReason: s.CacheReason, StdoutTail: s.StdoutTail, StderrTail: s.StderrTail,
	}
}

func lineMessage(l lehr.LogLine) *lehrv1.LogLine {
	return &lehrv1.LogLine{
		Seq: l.Seq, Attempt: l.Attempt, Time: stamp(l.Time), Phase: string(l.Phase), Step: l.Step, Stream: string(l.Stream), Text: l.Text,
	}
}

func templateMessage(t lehr.Tagged) *lehrv1.Template {
	return &lehrv1.Template{
		Id: string(t.Template.ID), Name: t.Template.Name, Tags: t.Tags, Type: string(t.Version.Type), Version: string(t.Version.ID),
		BaseTemplate: orNull(t.Version.BaseTemplate), Vcpus: t.Version.Resources.VCPUs, MemoryMb: t.Version.Resources.MemoryMB,
		SizeBytes: t.Version.SizeBytes, TeamId: string(t.Template.TeamID), CreatedAt: stamp(t.Version.CreatedAt),
		Labels: labelMap(t.Version.Config.Labels), Exposed: t.Version.Config.Exposed, DiskMb: t.Version.Resources.DiskMB,
		BaseDigest: orNull(t.Version.BaseDigest), ImageDigest: orNull(t.Version.ImageDigest),
		SnapshotDigest: orNull(t.Version.SnapshotDigest), BuildId: orNull(t.Version.BuildID),
	}
}

func sandboxMessage(s lehr.Sandbox) *lehrv1.Sandbox {
	return &lehrv1.Sandbox{
		Id: string(s.ID), Template: s.Template, Version: string(s.VersionID), State: string(s.State), Reason: orNull(s.Reason),
		Vcpus: s.Resources.VCPUs, MemoryMb: s.Resources.MemoryMB, DiskMb: s.Resources.DiskMB,
		CreatedAt: stamp(s.CreatedAt), ExpiresAt: stamp(s.ExpiresAt), HostId: orNull(s.HostID),
		Metadata: s.Metadata, EndedAt: stamp(s.EndedAt), Error: sandboxErrorMessage(s.Error),
	}
}

func sandboxErrorMessage(e *lehr.SandboxError) *lehrv1.Error {
	if e == nil {
		return nil
	}
	return &lehrv1.Error{Code: e.Code, Message: e.Message, Remedy: e.Remedy, Field: e.Field}
}

// labelMap is labels by name; of a name that is given twice the last counts.
func labelMap(labels []lehr.EnvVar) map[string]string {
	m := make(map[string]string, len(labels))
	for _, l := range labels {
		m[l.Name] = l.Value
	}
	return m
}
