"""The engines on which launch.submit starts a training run: this machine, SLURM, Kubernetes on GKE, Cloud TPU VMs."""
