"""One row of data for each way of a built-in Quantizer, proved through the operator."""
