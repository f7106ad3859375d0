"""The operator's page: plain files, served by `control.page`. uPlot is vendored as it is in the npm registry."""
