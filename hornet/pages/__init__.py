"""Pages: one self-contained HTML file each, light and dark, for screens of any width and paper."""
