"""A scan in numbers, without any network.

    volume           Volume(data, affine, unit): NIfTI in and out, voxels and mm
    dicom, suv       PET and CT series as Volume; the SUV factor from the headers, or an error that names the tag
    resampling, registration   a volume on the grid of another; a CT registered to a PET
    threshold_rules  "41% SUVmax", "SUV>=4": the threshold rules and their names
    quantification, percist    SUVmax, SUVmean, SUVpeak, MTV, TLG; PERCIST's reference and threshold
    physiology       masks of organs that are hot in health, and masks without them
    views, plots     axial, coronal and sagittal views; MIP, slices, PET over CT
"""
