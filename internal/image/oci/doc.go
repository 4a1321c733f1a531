// Package oci makes images from container images: from the tar of an OCI image
// layout, and from a registry. It chooses the image for Linux on this machine's
// processor, checks every blob against its digest, and translates the image's
// configuration. See https://github.com/opencontainers/image-spec.
package oci
