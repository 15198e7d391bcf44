
document.querySelectorAll('th').forEach(th=>th.addEventListener('click',()=>{
 const body=th.closest('table').tBodies[0],i=th.cellIndex,up=th.dataset.up!=='1';th.dataset.up=up?'1':'0';
 // Numbers, then words, then empty cells.
 const key=row=>{const text=row.cells[i].dataset.v??row.cells[i].textContent.trim();
  return text===''?[2,0,text]:isNaN(text)?[1,0,text]:[0,+text,text]};
 const order=(x,y)=>x[0]-y[0]||(up?1:-1)*(x[1]-y[1]||x[2].localeCompare(y[2],'en',{numeric:true}));
 [...body.rows].sort((a,b)=>order(key(a),key(b))).forEach(row=>body.append(row))}))
