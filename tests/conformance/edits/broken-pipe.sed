# As shipped it names a configuration that does not exist, so that no client ever connects.
s/ssh_config_config/ssh_proxy/
