"""Side-by-side measurements of Faregate, nginx and two other gateways on one machine; `make bench` runs them."""
