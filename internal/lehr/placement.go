package lehr

// Placement is a request for a place on a host.
type Placement struct {
	TeamID    TeamID
	Resources Resources
	Artifacts []Digest // image and snapshot to start from; a host without them is refused while they are not distributed
	Engine    Digest   // of a snapshot: only hosts with this engine fit; empty: any
	Avoid     []HostID // hosts that an earlier attempt was lost on: taken only where there is no other
}
