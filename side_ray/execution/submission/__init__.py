"""An audit as a job on a Ray cluster: `package` writes what is uploaded, `client` submits, follows and stops a job."""
