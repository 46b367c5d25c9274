import fedkim_core as fedkim_core  # before torch: it says how torch's threads wait
