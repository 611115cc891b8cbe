# Remote listeners are not built yet; the local and the dynamic one stay.
s/ -R\$[A-Z]+(:[^ ]*)?//g
