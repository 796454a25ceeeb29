"""The gRPC face of the service: servicers translate, validate and map errors; the work is done elsewhere."""
