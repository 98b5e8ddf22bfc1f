"""What every request passes before its route, outermost first: ids, hosts, CORS, limits, paths, errors of ours."""
