"""HorNet under segmenters and detectors: backbone, pyramids (HorFPN among them), UPerNet, Mask and Cascade R-CNN."""
