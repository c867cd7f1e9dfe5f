"""What the server tells about itself: metrics, their exporters, logs."""
