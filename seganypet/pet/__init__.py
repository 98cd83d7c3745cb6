"""A scan in numbers, without any network.

    volume           Volume(data, affine, unit): files in and out, voxels and mm
    image_file, nifti, itk_files, grids   open files and their doubts: NIfTI, NRRD, MetaImage; whether two grids are one
    dicom, suv       PET and CT series as Volume; the SUV factor from the headers, or an error that names the tag
    suv_inputs, decay_reference, series_header  what the SUV rests on; given  what a user states by hand
    body, nuclides   lean mass, body surface, ideal weight; half-lives and their names
    sidecar          the JSON file beside a NIfTI PET, and Bq/mL as SUVbw; plausibility  a look at the values
    dicom_files, _header, _enhanced, _frames, _stack, _pixels  the steps of dicom; activity  Bq/mL without an SUV
    mask_files       masks in and out: DICOM SEG, RTSTRUCT, .seg.nrrd, NIfTI with names, STL
    resampling, registration   a volume on the grid of another; a CT registered to a PET
    threshold_rules  "41% SUVmax", "SUV>=4": the threshold rules and their names
    quantification, percist    SUVmax, SUVmean, SUVpeak, MTV, TLG; PERCIST's reference and threshold
    physiology       masks of organs that are hot in health, and masks without them
    views, plots     axial, coronal and sagittal views; MIP, slices, PET over CT
"""
