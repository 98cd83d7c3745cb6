"""seganypet: promptable segmentation of 3D PET, to learn, run and extend."""
